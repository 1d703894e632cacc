# find_package(harness) for a backend built outside this tree; CMAKE_PREFIX_PATH is what
# `python -m harness.cmake_dir` prints. Gives the function harness_add_allocator(), which builds ours alike.
#
#   find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
#   find_package(nanobind CONFIG REQUIRED)
#   find_package(harness CONFIG REQUIRED)
#   harness_add_allocator(_slab module.cpp)

set(HARNESS_INCLUDE_DIR "${CMAKE_CURRENT_LIST_DIR}/include")

# Builds one native module from its sources, with the options that the loop and its determinism need.
function(harness_add_allocator name)
  # NOMINSIZE: nanobind compiles with -Os unless told otherwise, which costs the loop a third of its speed.
  nanobind_add_module(${name} NB_STATIC NOMINSIZE ${ARGN})
  target_compile_features(${name} PRIVATE cxx_std_20)
  target_include_directories(${name} PRIVATE "${HARNESS_INCLUDE_DIR}")
  # No contracted floating point: a trigger computed with it would differ from machine to machine.
  target_compile_options(${name} PRIVATE -ffp-contract=off -Wall -Wextra -Wconversion)
  # Processors since 2009: without it, counting bits is a call.
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    target_compile_options(${name} PRIVATE -march=x86-64-v2)
  endif()
  if(HARNESS_WERROR)
    target_compile_options(${name} PRIVATE -Werror)
  endif()
  if(HARNESS_SANITIZE)
    target_compile_options(${name} PRIVATE -fsanitize=address,undefined -fno-omit-frame-pointer -O1 -g)
    target_link_options(${name} PRIVATE -fsanitize=address,undefined)
  endif()
endfunction()
