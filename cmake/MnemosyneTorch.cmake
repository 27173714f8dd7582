# LibTorch as one imported target, mnemosyne::torch: Debian's, or a user's 2.x given by CMAKE_PREFIX_PATH.
#
# TorchConfig adds its own flags (and CUDA probing) to whatever links it; this file is the only place that sees them.
find_package(Torch REQUIRED)
add_library(mnemosyne_torch INTERFACE)
add_library(mnemosyne::torch ALIAS mnemosyne_torch)
target_include_directories(mnemosyne_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
target_link_libraries(mnemosyne_torch INTERFACE ${TORCH_LIBRARIES})
