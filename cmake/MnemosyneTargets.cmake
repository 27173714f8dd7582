# mnemosyne_library(NAME <name> SOURCES ... [DEPS ...]) and the same for mnemosyne_binary, mnemosyne_test and
# mnemosyne_fuzzer.
#
# Every target lists its sources and what it needs; warnings are errors on our code and only there.
function(mnemosyne_options target)
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR})
  target_compile_options(${target} PRIVATE -Wall -Wextra -Werror -Wno-sign-compare -Wno-missing-field-initializers)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE -Wno-restrict -Wno-stringop-overflow)  # false alarms of GCC 12 on strings
  endif()
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(${target} PRIVATE -Werror=thread-safety)
  endif()
  if(MNEMOSYNE_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${MNEMOSYNE_SANITIZE} -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${MNEMOSYNE_SANITIZE})
  endif()
endfunction()

# With the thread sanitizer, this folder and those below it lock by mutexes that it sees.
macro(mnemosyne_tsan_mutex)
  if(MNEMOSYNE_SANITIZE STREQUAL "thread")
    include_directories(BEFORE ${CMAKE_SOURCE_DIR}/tests/tsan)
    add_compile_options(-Wno-attributes)  # those mutexes are hidden, what holds them is not
  endif()
endmacro()

function(mnemosyne_library)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;DEPS" ${ARGN})
  add_library(${ARG_NAME} STATIC ${ARG_SOURCES})
  mnemosyne_options(${ARG_NAME})
  target_link_libraries(${ARG_NAME} PUBLIC ${ARG_DEPS})
endfunction()

function(mnemosyne_binary)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  mnemosyne_options(${ARG_NAME})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS})
endfunction()

function(mnemosyne_test)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;DEPS" ${ARGN})
  mnemosyne_binary(NAME ${ARG_NAME} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS} GTest::gtest_main GTest::gmock)
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME})
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT 600
    ENVIRONMENT "OPENBLAS_NUM_THREADS=1;MNEMOSYNE_SOURCE_DIR=${CMAKE_SOURCE_DIR}")
endfunction()

# Compiled in the tree of preset fuzz only, by clang (target `fuzzers`); a test in every tree, which runs what was built
# there on tests/fuzz/corpus/<name>.
set(MNEMOSYNE_FUZZ_TREE ${CMAKE_SOURCE_DIR}/build/fuzz)
function(mnemosyne_fuzzer)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;DEPS" ${ARGN})
  if(CMAKE_BINARY_DIR STREQUAL MNEMOSYNE_FUZZ_TREE)
    mnemosyne_binary(NAME ${ARG_NAME} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS})
    target_link_options(${ARG_NAME} PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzzers ${ARG_NAME})
  endif()
  add_test(NAME ${ARG_NAME} COMMAND Python3::Interpreter ${CMAKE_SOURCE_DIR}/tests/fuzz/run_fuzzer.py
    ${MNEMOSYNE_FUZZ_TREE} ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus ${ARG_NAME})
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS fuzz)
endfunction()
