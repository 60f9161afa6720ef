# How everything of ours is compiled and linked.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_SCAN_FOR_MODULES OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

# Tools that make builds faster: the system's first, then those of the dependency folder.
find_program(MILLRACE_CCACHE ccache)
find_program(MILLRACE_CCACHE ccache PATHS "${MILLRACE_DEPS_DIR}/bin" NO_DEFAULT_PATH)
if(MILLRACE_CCACHE)
  foreach(language CXX CUDA)
    set(CMAKE_${language}_COMPILER_LAUNCHER "${MILLRACE_CCACHE}" CACHE STRING "")
  endforeach()
endif()
find_program(MILLRACE_MOLD ld.mold)
find_program(MILLRACE_MOLD ld.mold PATHS "${MILLRACE_DEPS_DIR}/bin" NO_DEFAULT_PATH)

add_library(millrace_flags INTERFACE)
target_compile_options(millrace_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor>)
if(NOT MILLRACE_SANITIZE)  # instrumented code makes g++ warn where nothing is wrong
  target_compile_options(millrace_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 sees uninitialized members in moved std::variant and std::optional, and overlapping copies in
  # operator+ of std::string, where there are none.
  target_compile_options(millrace_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized -Wno-restrict>)
endif()
if(MILLRACE_MOLD)
  cmake_path(GET MILLRACE_MOLD PARENT_PATH mold_folder)
  target_link_options(millrace_flags INTERFACE "-B${mold_folder}" -fuse-ld=mold)
endif()
target_link_options(millrace_flags INTERFACE -Wl,--as-needed -Wl,--gc-sections)
if(NOT MILLRACE_SANITIZE)  # a sanitizer's runtime must be seen by every library
  # What is linked statically stays invisible to libraries that are opened at run time.
  target_link_options(millrace_flags INTERFACE -Wl,--exclude-libs,ALL)
endif()
target_compile_options(millrace_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-ffunction-sections -fdata-sections>)

if(MILLRACE_SANITIZE)
  set(sanitizer_options -fsanitize=${MILLRACE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_compile_options(millrace_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${sanitizer_options}>)
  # Inline functions of the standard library exist once in a program: those compiled with kernels may be the ones that run.
  string(REPLACE "," "\\," sanitizer_options "${sanitizer_options}")
  list(TRANSFORM sanitizer_options PREPEND "-Xcompiler=")
  target_compile_options(millrace_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:${sanitizer_options}>)
  target_link_options(millrace_flags INTERFACE -fsanitize=${MILLRACE_SANITIZE})
endif()

# The sanitizers' settings for an executable. VENDOR: it runs ONNX Runtime; GRPC: it runs gRPC; their own frames are ignored.
function(millrace_sanitizer_options target)
  if(NOT MILLRACE_SANITIZE)
    return()
  endif()
  target_sources(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests/support/sanitizer_options.cpp")
  set(libraries)
  if("VENDOR" IN_LIST ARGN)
    list(APPEND libraries onnxruntime)
  endif()
  if("GRPC" IN_LIST ARGN)
    list(APPEND libraries grpc)
  endif()
  if(NOT libraries)
    return()
  endif()
  list(JOIN libraries "_" name)
  foreach(sanitizer IN ITEMS lsan tsan)  # one file is all that a sanitizer reads
    set(text "")
    foreach(library IN LISTS libraries)
      set(file "${PROJECT_SOURCE_DIR}/tests/suppressions/${sanitizer}_${library}.txt")
      set_property(DIRECTORY "${PROJECT_SOURCE_DIR}" APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
      file(READ "${file}" one)
      string(APPEND text "${one}")
    endforeach()
    file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/suppressions/${sanitizer}_${name}.txt" CONTENT "${text}" @ONLY)
  endforeach()
  target_compile_definitions(${target} PRIVATE
    MILLRACE_SUPPRESSIONS="${CMAKE_BINARY_DIR}/suppressions" MILLRACE_LIBRARIES="${name}")
endfunction()
