# The libraries, each from the system where it has one that is new enough, else from the dependency folder.

set(MILLRACE_FALLBACK "${MILLRACE_DEPS_DIR}/debian/usr")

macro(millrace_missing name)
  message(FATAL_ERROR "${name} was found neither on the system nor in ${MILLRACE_DEPS_DIR}. "
                      "Run tools/deps/fetch.py build test, or install it.")
endmacro()

# Whether the headers in `folder` are at least of version MILLRACE_MINIMUM, by the first group of MILLRACE_PATTERN
# in MILLRACE_VERSION_FILE. The form is that of a VALIDATOR.
function(millrace_new_enough result folder)
  set(text "")
  if(EXISTS "${folder}/${MILLRACE_VERSION_FILE}")
    file(READ "${folder}/${MILLRACE_VERSION_FILE}" text)
  endif()
  string(REGEX MATCH "${MILLRACE_PATTERN}" _ "${text}")
  if("${CMAKE_MATCH_1}" VERSION_LESS "${MILLRACE_MINIMUM}")
    set(${result} FALSE PARENT_SCOPE)
  endif()
endfunction()

# A library of headers alone: target `name`, found by `header`, in one of the sub-folders SUFFIXES, of at least
# version MINIMUM, which PATTERN finds in VERSION_FILE.
function(millrace_find_headers name header)
  cmake_parse_arguments(PARSE_ARGV 2 MILLRACE "" "MINIMUM;PATTERN;VERSION_FILE" "SUFFIXES")
  string(MAKE_C_IDENTIFIER "MILLRACE_${header}_DIR" variable)
  set(how PATH_SUFFIXES ${MILLRACE_SUFFIXES})
  if(MILLRACE_MINIMUM)
    list(APPEND how VALIDATOR millrace_new_enough)
  endif()
  find_path(${variable} "${header}" ${how})
  find_path(${variable} "${header}" PATHS "${MILLRACE_FALLBACK}/include" "${MILLRACE_DEPS_DIR}/tensorrt/include" ${how} NO_DEFAULT_PATH)
  if(NOT ${variable})
    millrace_missing("${header} ${MILLRACE_MINIMUM}")
  endif()
  add_library(${name} INTERFACE IMPORTED)
  target_include_directories(${name} SYSTEM INTERFACE "${${variable}}")
endfunction()

# A static archive with its headers: target `name`, found by `header` and `archive`.
function(millrace_find_archive name header archive)
  string(MAKE_C_IDENTIFIER "MILLRACE_${archive}" variable)
  set(places PATHS "${MILLRACE_FALLBACK}/lib" "${MILLRACE_FALLBACK}/lib/x86_64-linux-gnu" NO_DEFAULT_PATH)
  find_library(${variable} "${archive}")
  find_library(${variable} "${archive}" ${places})
  find_path(${variable}_INCLUDE "${header}" PATH_SUFFIXES ${ARGN})
  find_path(${variable}_INCLUDE "${header}" PATHS "${MILLRACE_FALLBACK}/include" PATH_SUFFIXES ${ARGN} NO_DEFAULT_PATH)
  if(NOT ${variable} OR NOT ${variable}_INCLUDE)
    millrace_missing("${archive}")
  endif()
  add_library(${name} STATIC IMPORTED)
  set_target_properties(${name} PROPERTIES IMPORTED_LOCATION "${${variable}}"
                        INTERFACE_INCLUDE_DIRECTORIES "${${variable}_INCLUDE}"
                        INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${${variable}_INCLUDE}")
endfunction()

find_package(Threads REQUIRED)
millrace_find_headers(millrace_json nlohmann/json.hpp
  MINIMUM 3.11 VERSION_FILE nlohmann/json.hpp PATTERN "version ([0-9.]+)")
millrace_find_headers(millrace_cli11 CLI/CLI.hpp
  MINIMUM 2.1 VERSION_FILE CLI/Version.hpp PATTERN "CLI11_VERSION \"([0-9.]+)\"")
millrace_find_headers(millrace_stb stb_image.h SUFFIXES stb)
millrace_find_headers(millrace_onnxruntime onnxruntime_c_api.h SUFFIXES onnxruntime onnxruntime/core/session
  MINIMUM 21 VERSION_FILE onnxruntime_c_api.h PATTERN "define ORT_API_VERSION ([0-9]+)")
millrace_find_headers(millrace_xxhash xxhash.h)
millrace_find_archive(millrace_zlib zlib.h libz.a)
# Of the server: Boost's headers, and gRPC with everything under it, as static archives that rescan one another.
millrace_find_headers(millrace_boost boost/beast.hpp
  MINIMUM 1_81 VERSION_FILE boost/version.hpp PATTERN "BOOST_LIB_VERSION \"([0-9_]+)\"")
target_compile_definitions(millrace_boost INTERFACE BOOST_ASIO_NO_DEPRECATED BOOST_ASIO_DISABLE_VISIBILITY)
millrace_find_archive(millrace_ssl openssl/ssl.h libssl.a)
millrace_find_archive(millrace_crypto openssl/ssl.h libcrypto.a)
target_include_directories(millrace_crypto SYSTEM INTERFACE "${MILLRACE_FALLBACK}/include/x86_64-linux-gnu")
target_link_libraries(millrace_crypto INTERFACE ${CMAKE_DL_LIBS} Threads::Threads)
target_link_libraries(millrace_ssl INTERFACE millrace_crypto)
millrace_find_archive(millrace_protobuf google/protobuf/message.h libprotobuf.a)
target_link_libraries(millrace_protobuf INTERFACE millrace_zlib Threads::Threads)
# Its classes have other members when they are compiled for ThreadSanitizer; the archive was not. Code of ours asks for
# MILLRACE_THREAD_SANITIZER instead, and the standard library is told by a name of its own: else a reference is let go
# with one access to two counts, which the sanitizer takes for a race.
target_compile_options(millrace_protobuf INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-U__SANITIZE_THREAD__>)
if(MILLRACE_SANITIZE MATCHES "thread")
  target_compile_definitions(millrace_protobuf INTERFACE MILLRACE_THREAD_SANITIZER=1 _GLIBCXX_TSAN=1)
endif()
millrace_find_archive(millrace_grpc_core grpc/grpc.h libgrpc.a)
set(grpc_archives "${MILLRACE_libgrpc_a}")
cmake_path(GET MILLRACE_libgrpc_a PARENT_PATH grpc_folder)
foreach(archive IN ITEMS libgrpc++.a libgrpc++_reflection.a libgpr.a libupb.a libaddress_sorting.a libcares.a libre2.a)
  if(NOT EXISTS "${grpc_folder}/${archive}")
    millrace_missing("${archive}")
  endif()
  list(APPEND grpc_archives "${grpc_folder}/${archive}")
endforeach()
file(GLOB absl_archives "${grpc_folder}/libabsl_*.a")
add_library(millrace_grpc INTERFACE IMPORTED)
target_include_directories(millrace_grpc SYSTEM INTERFACE "${MILLRACE_libgrpc_a_INCLUDE}")
target_link_libraries(millrace_grpc INTERFACE -Wl,--start-group ${grpc_archives} ${absl_archives} -Wl,--end-group
  millrace_protobuf millrace_ssl millrace_zlib)
find_program(MILLRACE_PROTOC protoc PATHS "${MILLRACE_DEPS_DIR}/bin" NO_DEFAULT_PATH)
find_program(MILLRACE_PROTOC protoc REQUIRED)
find_program(MILLRACE_GRPC_PLUGIN grpc_cpp_plugin PATHS "${MILLRACE_DEPS_DIR}/bin" NO_DEFAULT_PATH)
find_program(MILLRACE_GRPC_PLUGIN grpc_cpp_plugin REQUIRED)

if(MILLRACE_TENSORRT)
  millrace_find_headers(millrace_tensorrt NvOnnxParser.h MINIMUM 10 VERSION_FILE NvInferVersion.h
    PATTERN "_MAJOR[_A-Z]* +([0-9]+)")
endif()
if(MILLRACE_TESTS)
  find_path(MILLRACE_SYSTEM_GMOCK gmock/gmock.h)  # a system may have GoogleTest without GoogleMock
  if(MILLRACE_SYSTEM_GMOCK)
    find_package(GTest 1.12 CONFIG QUIET)
  endif()
  if(NOT GTest_FOUND)
    find_package(GTest 1.12 CONFIG QUIET PATHS "${MILLRACE_FALLBACK}" NO_DEFAULT_PATH)
  endif()
  if(NOT GTest_FOUND)
    millrace_missing("GoogleTest")
  endif()
endif()

# The library of the default backend, beside every executable that is built, as in an installed tree.
find_library(MILLRACE_ONNXRUNTIME_LIBRARY NAMES libonnxruntime.so.1.31.1 libonnxruntime.so.1
             PATHS "${MILLRACE_DEPS_DIR}/onnxruntime/lib" NO_DEFAULT_PATH)
if(MILLRACE_ONNXRUNTIME_LIBRARY)
  file(MAKE_DIRECTORY "${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  file(CREATE_LINK "${MILLRACE_ONNXRUNTIME_LIBRARY}"
       "${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/libonnxruntime.so.1" SYMBOLIC)
endif()
