# Installs the build at `build` into an empty folder, builds the outside project beside it against that, and runs it.
cmake_minimum_required(VERSION 3.25)

set(place "${build}/package_test")
file(REMOVE_RECURSE "${place}")

function(step)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nended with ${status}:\n${output}")
  endif()
  message("${output}")
endfunction()

step("${CMAKE_COMMAND}" --install "${build}" --prefix "${place}/installed")

# Moved, as an installed tree may be: nothing in it may know where it was made.
file(RENAME "${place}/installed" "${place}/moved")
file(GLOB_RECURSE texts "${place}/moved/*.cmake" "${place}/moved/*.h")
foreach(text IN LISTS texts)
  file(READ "${text}" content)
  foreach(path IN ITEMS "${build}" "${deps}" "${place}")
    string(FIND "${content}" "${path}" found)
    if(NOT found EQUAL -1)
      message(FATAL_ERROR "${text} names ${path}, a folder of the machine that built it")
    endif()
  endforeach()
endforeach()

step("${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}" -B "${place}/outside" -G "${generator}"
     "-DCMAKE_MAKE_PROGRAM=${make_program}" "-DCMAKE_CXX_COMPILER=${compiler}" "-DCMAKE_PREFIX_PATH=${place}/moved")
step("${CMAKE_COMMAND}" --build "${place}/outside")
step("${place}/outside/uses_millrace")
file(GLOB program "${place}/moved/bin/millrace")
if(program)
  step("${program}" --version)
endif()
file(REMOVE_RECURSE "${place}")
