# LibTorch as one imported target, mnemosyne::torch: Debian's, or a user's 2.x given by CMAKE_PREFIX_PATH.
#
# TorchConfig adds its own flags (and CUDA probing) to whatever links it; this file is the only place that sees them.
find_package(Torch REQUIRED)
add_library(mnemosyne_torch INTERFACE)
add_library(mnemosyne::torch ALIAS mnemosyne_torch)
target_include_directories(mnemosyne_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
target_link_libraries(mnemosyne_torch INTERFACE ${TORCH_LIBRARIES})

# Debian's libtorch_cpu.so names OpenCV, FFmpeg, ZeroMQ, LMDB and LevelDB among what it needs and takes no symbol from
# any of them (`ldd -u` says so). They bring 220 libraries along: half of the time from a program's start to its main,
# and 70 MB of its memory. So our programs look first into a folder where an empty library has their names, and never
# load them. They look by DT_RPATH, which counts for what LibTorch needs too. A library that LibTorch does take a symbol
# from is not stood in for, and a LibTorch that names none of these (upstream's) has an empty folder.
set(torch_needs_in_vain "lib(opencv_|avcodec|avformat|avutil|swscale|swresample|zmq|lmdb|leveldb)[^/\n]*")
set(stand_ins ${CMAKE_BINARY_DIR}/lib/mnemosyne/stand-ins)
set(CMAKE_BUILD_RPATH "$ORIGIN/../lib/mnemosyne/stand-ins;$ORIGIN/../lib")
set(CMAKE_INSTALL_RPATH ${CMAKE_BUILD_RPATH})
add_link_options(LINKER:--disable-new-dtags)

file(REMOVE_RECURSE ${stand_ins})
file(MAKE_DIRECTORY ${stand_ins})
find_library(libtorch_cpu torch_cpu HINTS ${TORCH_INSTALL_PREFIX}/lib REQUIRED)
execute_process(COMMAND ldd -u ${libtorch_cpu} OUTPUT_VARIABLE torch_unused ERROR_QUIET)
string(REGEX MATCHALL "${torch_needs_in_vain}" torch_unused "${torch_unused}")
file(WRITE ${CMAKE_BINARY_DIR}/stand_in.c "")
add_library(mnemosyne_stand_in MODULE ${CMAKE_BINARY_DIR}/stand_in.c)
set_target_properties(mnemosyne_stand_in PROPERTIES
  PREFIX "" OUTPUT_NAME nothing LIBRARY_OUTPUT_DIRECTORY ${stand_ins} SKIP_BUILD_RPATH ON INSTALL_RPATH "")
target_link_options(mnemosyne_stand_in PRIVATE -nostdlib)
install(TARGETS mnemosyne_stand_in LIBRARY DESTINATION lib/mnemosyne/stand-ins COMPONENT programs)
foreach(library IN LISTS torch_unused)
  file(CREATE_LINK nothing.so ${stand_ins}/${library} SYMBOLIC)
  install(FILES ${stand_ins}/${library} DESTINATION lib/mnemosyne/stand-ins COMPONENT programs)
endforeach()
add_dependencies(mnemosyne_torch mnemosyne_stand_in)
