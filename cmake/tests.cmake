# Tests, examples and benchmarks. Every folder becomes a target of its own; ctest labels carry the folder's name.

include(GoogleTest)

# Suites that run none but our own code: no frame is suppressed under a sanitizer.
set(MILLRACE_PURE_LABELS base tensor device kernels engine io repository diagnose server client backends backends-reference
    backends-tensorrt plugins conformance faults)

# Suites that every change must pass under the sanitizers as well; .ci/run names the same labels.
set(MILLRACE_CORE_LABELS engine device conformance faults backends-reference repository server grpc)
add_custom_target(core_suites)

# One test executable `target` with label `label`; the rest of the arguments are its sources.
function(millrace_test target label)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE
    millrace_core millrace_private millrace_flags GTest::gmock GTest::gtest GTest::gtest_main)
  target_include_directories(${target} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_compile_definitions(${target} PRIVATE MILLRACE_SOURCE_DIR="${CMAKE_CURRENT_SOURCE_DIR}"
                             MILLRACE_BINARY="$<TARGET_FILE_DIR:${target}>/millrace")
  if(label MATCHES "^(cli|soak)$")
    target_link_libraries(${target} PRIVATE millrace_cli)
  elseif(label IN_LIST MILLRACE_SERVER_ROOMS OR label MATCHES "^(model_repository|grpc|server-program)$")
    target_link_libraries(${target} PRIVATE millrace_server)
  endif()
  if(TARGET millrace AND NOT label IN_LIST MILLRACE_PURE_LABELS AND NOT label STREQUAL "grpc")
    add_dependencies(${target} millrace)  # whole-program suites run it
  endif()
  if(label IN_LIST MILLRACE_CORE_LABELS)
    add_dependencies(core_suites ${target})
  endif()
  if(label IN_LIST MILLRACE_PURE_LABELS)
    millrace_sanitizer_options(${target})
  elseif(label MATCHES "^(grpc|server-program)$")
    millrace_sanitizer_options(${target} GRPC)
  else()
    millrace_sanitizer_options(${target} VENDOR)
  endif()
  gtest_discover_tests(${target} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    PROPERTIES LABELS "${label}" TIMEOUT 120)
endfunction()

function(millrace_test_if_any target label)
  if(ARGN)
    millrace_test(${target} ${label} ${ARGN})
  endif()
endfunction()

# Each room: src/ROOM/**/*_test.cpp. The backends have one for each of their folders.
foreach(room IN LISTS MILLRACE_ROOMS MILLRACE_SERVER_ROOMS ITEMS cli)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/src/${room}/*_test.cpp")
  if(NOT MILLRACE_CUDA)
    list(FILTER sources EXCLUDE REGEX "/src/device/cuda/")
  endif()
  if(NOT MILLRACE_TENSORRT)
    list(FILTER sources EXCLUDE REGEX "/src/backends/tensorrt/")
  endif()
  if(room STREQUAL "backends")
    file(GLOB folders LIST_DIRECTORIES true "${CMAKE_CURRENT_SOURCE_DIR}/src/backends/*")
    foreach(folder IN LISTS folders)
      if(IS_DIRECTORY "${folder}")
        cmake_path(GET folder FILENAME name)
        set(own ${sources})
        list(FILTER own INCLUDE REGEX "/src/backends/${name}/")
        list(FILTER sources EXCLUDE REGEX "/src/backends/${name}/")
        millrace_test_if_any(backends_${name}_test backends-${name} ${own})
      endif()
    endforeach()
  endif()
  millrace_test_if_any(${room}_test ${room} ${sources})
endforeach()

if(MILLRACE_TENSORRT)
  set(TENSORRT_INCLUDE_DIR "${MILLRACE_NvOnnxParser_h_DIR}" CACHE PATH "" FORCE)
  add_subdirectory(examples/plugins)
  millrace_plugin_library(misbehaving_plugins tests/gpu/plugins/misbehaving.cu)
  target_include_directories(misbehaving_plugins PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  # Libraries that are wrong, each in its way.
  foreach(wrong IN ITEMS none old empty kind)
    add_library(wrong_plugins_${wrong} MODULE tests/gpu/plugins/wrong/${wrong}.cpp)
    target_include_directories(wrong_plugins_${wrong} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
    target_include_directories(wrong_plugins_${wrong} SYSTEM PRIVATE "${TENSORRT_INCLUDE_DIR}" ${CUDAToolkit_INCLUDE_DIRS})
    target_link_libraries(wrong_plugins_${wrong} PRIVATE millrace_flags)
  endforeach()
  add_library(another_tensorrt SHARED tests/gpu/plugins/wrong/none.cpp)
  set_target_properties(another_tensorrt PROPERTIES OUTPUT_NAME nvinfer SOVERSION 8 VERSION 8.6.1)
  add_library(wrong_plugins_major MODULE tests/gpu/plugins/wrong/empty.cpp)
  target_include_directories(wrong_plugins_major PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_include_directories(wrong_plugins_major SYSTEM PRIVATE "${TENSORRT_INCLUDE_DIR}" ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(wrong_plugins_major PRIVATE millrace_flags LINKER:--no-as-needed another_tensorrt)
  set(wrong_plugins wrong_plugins_none wrong_plugins_old wrong_plugins_empty wrong_plugins_kind wrong_plugins_major)
  set_target_properties(${wrong_plugins} another_tensorrt PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/wrong_plugins" PREFIX lib)
  add_dependencies(backends_tensorrt_test millrace_plugins misbehaving_plugins ${wrong_plugins})
  target_compile_definitions(backends_tensorrt_test PRIVATE
    MILLRACE_PLUGINS_LIBRARY="$<TARGET_FILE:millrace_plugins>"
    MILLRACE_MISBEHAVING_LIBRARY="$<TARGET_FILE:misbehaving_plugins>"
    MILLRACE_WRONG_PLUGINS="${CMAKE_BINARY_DIR}/wrong_plugins")
endif()

# Whole-program suites: tests/NAME/*.cpp -> NAME_suite. Some folders are something else.
file(GLOB folders LIST_DIRECTORIES true "${CMAKE_CURRENT_SOURCE_DIR}/tests/*")
foreach(folder IN LISTS folders)
  cmake_path(GET folder FILENAME name)
  if(IS_DIRECTORY "${folder}" AND NOT name MATCHES "^(python|package|fuzz|data|suppressions|support)$")
    file(GLOB sources CONFIGURE_DEPENDS "${folder}/*.cpp")
    if(name STREQUAL "annotations" AND NOT (MILLRACE_CUDA AND MILLRACE_NVTX_INCLUDE_DIR))
      continue()
    endif()
    if(name STREQUAL "gpu")
      if(NOT MILLRACE_TENSORRT)
        continue()
      endif()
      file(GLOB kernels CONFIGURE_DEPENDS "${folder}/*.cu")
      list(APPEND sources ${kernels})
    endif()
    set(label ${name})
    if(name IN_LIST MILLRACE_SERVER_ROOMS)  # the room's own tests have its name
      set(label "${name}-program")
    endif()
    millrace_test_if_any(${name}_suite ${label} ${sources})
    if(TARGET ${name}_suite)
      target_link_libraries(${name}_suite PRIVATE millrace_direct)
    endif()
  endif()
endforeach()

# Listens to the ranges that the suite's own process makes, as a profiler would.
if(TARGET annotations_suite)
  add_library(annotation_listener MODULE tests/annotations/listener/listener.cpp)
  target_include_directories(annotation_listener SYSTEM PRIVATE "${MILLRACE_NVTX_INCLUDE_DIR}")
  target_link_libraries(annotation_listener PRIVATE millrace_flags)
  target_compile_definitions(annotations_suite PRIVATE
    MILLRACE_LISTENER="$<TARGET_FILE:annotation_listener>")
  add_dependencies(annotations_suite annotation_listener)
endif()

if(TARGET gpu_suite)
  target_link_libraries(gpu_suite PRIVATE millrace_plugin_kernels millrace_plugin_references)
  add_dependencies(gpu_suite millrace_plugins misbehaving_plugins)
  target_compile_definitions(gpu_suite PRIVATE
    MILLRACE_PLUGINS_LIBRARY="$<TARGET_FILE:millrace_plugins>"
    MILLRACE_MISBEHAVING_LIBRARY="$<TARGET_FILE:misbehaving_plugins>")
endif()

if(TARGET server_suite AND TARGET millrace)
  add_library(crashing_library MODULE tests/server/crashing/crash.cpp)
  target_link_libraries(crashing_library PRIVATE millrace_flags)
  add_dependencies(server_suite millrace crashing_library)
  target_compile_definitions(server_suite PRIVATE
    MILLRACE_CRASHING_LIBRARY="$<TARGET_FILE:crashing_library>")
endif()

# Minutes of load: a program, run by "make gpu-soak", on host devices too.
add_executable(gpu_soak tests/gpu/soak/main.cpp tests/soak/soak.cpp)
target_link_libraries(gpu_soak PRIVATE millrace_core millrace_private millrace_cli millrace_flags)
target_include_directories(gpu_soak PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
target_compile_definitions(gpu_soak PRIVATE MILLRACE_SOURCE_DIR="${CMAKE_CURRENT_SOURCE_DIR}")
millrace_sanitizer_options(gpu_soak VENDOR)

# Fuzz targets: NAME_fuzz.cpp with its corpus in tests/fuzz/corpus/NAME/.
file(GLOB_RECURSE sources CONFIGURE_DEPENDS
  "${CMAKE_CURRENT_SOURCE_DIR}/src/*_fuzz.cpp" "${CMAKE_CURRENT_SOURCE_DIR}/tests/fuzz/*_fuzz.cpp")
set(MILLRACE_FUZZ_TARGETS)
foreach(source IN LISTS sources)
  cmake_path(GET source STEM target)
  string(REGEX REPLACE "_fuzz$" "" name "${target}")
  list(APPEND MILLRACE_FUZZ_TARGETS ${target})
  if(MILLRACE_FUZZ)
    add_executable(${target} "${source}")
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  else()
    add_executable(${target} "${source}" "${CMAKE_CURRENT_SOURCE_DIR}/tests/fuzz/replay_main.cpp")
    add_test(NAME fuzz_corpus.${name}
             COMMAND ${target} "${CMAKE_CURRENT_SOURCE_DIR}/tests/fuzz/corpus/${name}")
    set_tests_properties(fuzz_corpus.${name} PROPERTIES LABELS fuzz TIMEOUT 120)
  endif()
  target_link_libraries(${target} PRIVATE millrace_core millrace_private millrace_flags)
  if(source MATCHES "/src/(repository|server)/")
    target_link_libraries(${target} PRIVATE millrace_server)
  endif()
  millrace_sanitizer_options(${target})
endforeach()
file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/fuzz_targets.txt" CONTENT "${MILLRACE_FUZZ_TARGETS}\n")
add_custom_target(fuzzers DEPENDS ${MILLRACE_FUZZ_TARGETS})

# Examples see the public headers and nothing else.
file(GLOB sources CONFIGURE_DEPENDS
  "${CMAKE_CURRENT_SOURCE_DIR}/examples/*.cpp" "${CMAKE_CURRENT_SOURCE_DIR}/examples/*/*.cpp")
list(FILTER sources EXCLUDE REGEX "/examples/plugins/")
foreach(source IN LISTS sources)
  cmake_path(GET source STEM name)
  add_executable(example_${name} "${source}")
  target_link_libraries(example_${name} PRIVATE millrace_core millrace_flags)
  millrace_sanitizer_options(example_${name} VENDOR)
endforeach()

add_custom_target(benchmarks)
file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/bench/*.cpp")
foreach(source IN LISTS sources)
  cmake_path(GET source STEM name)
  add_executable(bench_${name} "${source}")
  target_link_libraries(bench_${name} PRIVATE millrace_cli millrace_flags)
  millrace_sanitizer_options(bench_${name} VENDOR)
  add_dependencies(benchmarks bench_${name})
endforeach()

# What the server is compared with: server_NAME.
file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/bench/server/*.cpp")
list(FILTER sources EXCLUDE REGEX "/grpc[^/]*$")
foreach(source IN LISTS sources)
  cmake_path(GET source STEM name)
  add_executable(server_${name} "${source}")
  target_link_libraries(server_${name} PRIVATE millrace_server millrace_cli11 millrace_flags)
  millrace_sanitizer_options(server_${name})
  add_dependencies(benchmarks server_${name})
endforeach()
# What servers cost, against ones that do nothing on the same library.
file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/bench/server/grpc*.cpp")
add_executable(bench_server_grpc ${sources})
target_link_libraries(bench_server_grpc PRIVATE millrace_server millrace_flags)
millrace_sanitizer_options(bench_server_grpc GRPC)
add_dependencies(benchmarks bench_server_grpc)

# An outside project, built against an installed tree. Sanitizers would have to be asked for there as well.
if(NOT MILLRACE_SANITIZE AND NOT MILLRACE_ROOMS_ONLY)
  add_test(NAME package COMMAND "${CMAKE_COMMAND}" -D "build=${CMAKE_BINARY_DIR}" -D "generator=${CMAKE_GENERATOR}"
           -D "make_program=${CMAKE_MAKE_PROGRAM}" -D "compiler=${CMAKE_CXX_COMPILER}"
           -D "deps=${MILLRACE_DEPS_DIR}" -P "${CMAKE_CURRENT_SOURCE_DIR}/tests/package/check.cmake")
  set_tests_properties(package PROPERTIES LABELS package TIMEOUT 300)
endif()

# Scripts as tests.
find_package(Python3 3.11 COMPONENTS Interpreter)
if(Python3_FOUND)
  add_test(NAME includes COMMAND Python3::Interpreter "${CMAKE_CURRENT_SOURCE_DIR}/tools/check_includes.py")
  set_tests_properties(includes PROPERTIES LABELS style TIMEOUT 120)
endif()
