# Libraries and the program, one list of files per room. A room that does not exist yet is an empty list.

set(MILLRACE_ROOMS base tensor device kernels backends engine io diagnose)
set(MILLRACE_SERVER_ROOMS repository server client)  # a library of their own, which programs that embed the engine do without
if(MILLRACE_ROOMS_ONLY)  # a part of the library, while another part does not build
  set(MILLRACE_ROOMS ${MILLRACE_ROOMS_ONLY})
endif()

# Sources of a folder, without its tests.
function(millrace_sources variable folder)
  file(GLOB_RECURSE found CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp")
  list(FILTER found EXCLUDE REGEX "_(test|fuzz)\\.cpp$")
  set(${variable} ${found} PARENT_SCOPE)
endfunction()

set(core_sources)
foreach(room IN LISTS MILLRACE_ROOMS)
  millrace_sources(room_sources src/${room})
  list(APPEND core_sources ${room_sources})
endforeach()
if(MILLRACE_CUDA)
  foreach(room IN LISTS MILLRACE_ROOMS)
    file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/src/${room}/*.cu")
    list(APPEND core_sources ${cuda_sources})
  endforeach()
else()
  list(FILTER core_sources EXCLUDE REGEX "/src/device/cuda/")
endif()
if(NOT MILLRACE_TENSORRT)
  list(FILTER core_sources EXCLUDE REGEX "/src/backends/tensorrt/")
endif()

file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/generated/empty.cpp" CONTENT "")

# What code of our own, inside the library or testing it, may see.
add_library(millrace_private INTERFACE)
target_include_directories(millrace_private INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/src")
target_compile_definitions(millrace_private INTERFACE
  MILLRACE_VERSION="${PROJECT_VERSION}" MILLRACE_WITH_CUDA=$<BOOL:${MILLRACE_CUDA}>
  MILLRACE_WITH_TENSORRT=$<BOOL:${MILLRACE_TENSORRT}>
  $<$<BOOL:${MILLRACE_BAKE_DEPS_DIR}>:MILLRACE_DEPS_DIR="${MILLRACE_DEPS_DIR}">)
target_link_libraries(millrace_private INTERFACE
  millrace_json millrace_stb millrace_onnxruntime millrace_xxhash millrace_zlib)
if(MILLRACE_CUDA)
  target_link_libraries(millrace_private INTERFACE CUDA::cudart_static)
endif()
if(MILLRACE_TENSORRT)
  target_link_libraries(millrace_private INTERFACE millrace_tensorrt)
endif()

if(MILLRACE_CUDA AND MILLRACE_NVTX_INCLUDE_DIR)
  set_source_files_properties(src/device/annotate.cpp PROPERTIES COMPILE_DEFINITIONS MILLRACE_WITH_NVTX=1
    COMPILE_OPTIONS "-isystem;${MILLRACE_NVTX_INCLUDE_DIR}")
endif()
add_library(millrace_core STATIC ${core_sources} "${CMAKE_BINARY_DIR}/generated/empty.cpp")
add_library(millrace::millrace ALIAS millrace_core)
target_include_directories(millrace_core PUBLIC
  $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(millrace_core PUBLIC cxx_std_20)
target_link_libraries(millrace_core
  PUBLIC Threads::Threads ${CMAKE_DL_LIBS}
  PRIVATE $<BUILD_INTERFACE:millrace_flags> $<BUILD_INTERFACE:millrace_private>)

# What stands in a folder as PROTOCOL.proto becomes code under generated/ with the same path: messages, and where
# SERVICES is given the stubs of gRPC. The compiler's warnings about it are not ours.
function(millrace_protocol variable proto)
  cmake_parse_arguments(PARSE_ARGV 2 MILLRACE "SERVICES" "" "")
  string(REGEX REPLACE "\\.proto$" "" stem "${proto}")
  set(root "${CMAKE_BINARY_DIR}/generated/protocol")
  set(made "${root}/${stem}.pb.cc" "${root}/${stem}.pb.h")
  set(services)
  if(MILLRACE_SERVICES)
    list(APPEND made "${root}/${stem}.grpc.pb.cc" "${root}/${stem}.grpc.pb.h")
    set(services "--plugin=protoc-gen-grpc=${MILLRACE_GRPC_PLUGIN}" "--grpc_out=${root}")
  endif()
  file(MAKE_DIRECTORY "${root}")
  add_custom_command(OUTPUT ${made} VERBATIM
    COMMAND "${MILLRACE_PROTOC}" "--proto_path=${CMAKE_CURRENT_SOURCE_DIR}/src" "--cpp_out=${root}" ${services}
            "${CMAKE_CURRENT_SOURCE_DIR}/src/${proto}"
    DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/src/${proto}")
  set(${variable} ${${variable}} ${made} PARENT_SCOPE)
endfunction()

# A file that the program carries: under generated/embedded with the same path, as a string literal to be included.
function(millrace_embed file)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/src/${file}")
  file(READ "${CMAKE_CURRENT_SOURCE_DIR}/src/${file}" text)
  file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/generated/embedded/${file}.inc" CONTENT "R\"embedded(@text@)embedded\"\n" @ONLY)
endfunction()

if(NOT MILLRACE_ROOMS_ONLY)
  set(protocol_sources)
  file(GLOB_RECURSE protocols CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}/src" "${CMAKE_CURRENT_SOURCE_DIR}/src/*.proto")
  foreach(protocol IN LISTS protocols)
    if(protocol MATCHES "/grpc/")
      millrace_protocol(protocol_sources ${protocol} SERVICES)
    else()
      millrace_protocol(protocol_sources ${protocol})
    endif()
  endforeach()
  add_library(millrace_protocol STATIC ${protocol_sources} "${CMAKE_BINARY_DIR}/generated/empty.cpp")
  target_include_directories(millrace_protocol SYSTEM PUBLIC "${CMAKE_BINARY_DIR}/generated/protocol")
  target_link_libraries(millrace_protocol PUBLIC millrace_grpc)
  set(server_sources)
  foreach(room IN LISTS MILLRACE_SERVER_ROOMS)
    millrace_sources(room_sources src/${room})
    list(APPEND server_sources ${room_sources})
  endforeach()
  add_library(millrace_server STATIC ${server_sources})
  millrace_embed(server/http/openapi.json)
  target_include_directories(millrace_server PRIVATE "${CMAKE_BINARY_DIR}/generated/embedded")
  target_link_libraries(millrace_server
    PUBLIC millrace_core millrace_private millrace_boost millrace_ssl millrace_zlib millrace_protocol PRIVATE millrace_flags)
endif()

# The hand-written loops that we compare with: the vendors' headers and nothing of ours.
file(GLOB direct_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/bench/direct/*.cpp")
list(FILTER direct_sources EXCLUDE REGEX "_(test|main)\\.cpp$")
if(NOT MILLRACE_TENSORRT)
  list(FILTER direct_sources EXCLUDE REGEX "/tensorrt\\.cpp$")
endif()
add_library(millrace_direct STATIC ${direct_sources} "${CMAKE_BINARY_DIR}/generated/empty.cpp")
target_include_directories(millrace_direct PUBLIC "${CMAKE_CURRENT_SOURCE_DIR}/bench")
target_link_libraries(millrace_direct
  PUBLIC Threads::Threads ${CMAKE_DL_LIBS} PRIVATE millrace_flags millrace_onnxruntime)
if(MILLRACE_TENSORRT)
  target_link_libraries(millrace_direct PRIVATE millrace_tensorrt CUDA::cudart_static)
  add_executable(direct_tensorrt EXCLUDE_FROM_ALL bench/direct/tensorrt_main.cpp)
  target_link_libraries(direct_tensorrt PRIVATE millrace_direct millrace_flags)
  millrace_sanitizer_options(direct_tensorrt VENDOR)
endif()

# The command line, apart from `main`, is a library so that its tests can call it.
millrace_sources(cli_sources src/cli)
if(cli_sources AND NOT MILLRACE_ROOMS_ONLY)
  list(FILTER cli_sources EXCLUDE REGEX "/src/cli/main\\.cpp$")
  add_library(millrace_cli STATIC ${cli_sources})
  target_link_libraries(millrace_cli
    PUBLIC millrace_server millrace_direct millrace_private millrace_cli11 PRIVATE millrace_flags)
  add_executable(millrace src/cli/main.cpp)
  target_link_libraries(millrace PRIVATE millrace_cli millrace_flags)
  millrace_sanitizer_options(millrace VENDOR GRPC)
  if(MILLRACE_PLACE_DIR)  # where users find the released program, with its default backend beside it
    add_custom_command(TARGET millrace POST_BUILD VERBATIM
      COMMAND "${CMAKE_COMMAND}" -E copy "$<TARGET_FILE:millrace>" "${MILLRACE_PLACE_DIR}/millrace")
    if(MILLRACE_ONNXRUNTIME_LIBRARY)
      file(CREATE_LINK "${MILLRACE_ONNXRUNTIME_LIBRARY}" "${MILLRACE_PLACE_DIR}/libonnxruntime.so.1" SYMBOLIC)
    endif()
  endif()
endif()
