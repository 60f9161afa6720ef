# What is installed, in two components:
#   program   bin/millrace, lib/libonnxruntime.so.1, the Python package that makes variants, licence texts: this alone
#             is the bundle
#   library   headers, static archives and the CMake package millrace
#
# The package needs nothing else: archives that the library uses inside are installed next to it.

include(CMakePackageConfigHelpers)

set_target_properties(millrace_core PROPERTIES OUTPUT_NAME millrace)
set(private_archives millrace_zlib)
set(private_system_libraries)
if(MILLRACE_CUDA)
  list(APPEND private_archives CUDA::cudart_static)
  set(private_system_libraries rt)
endif()

set(private_names)
foreach(archive IN LISTS private_archives)
  get_target_property(location ${archive} IMPORTED_LOCATION)
  cmake_path(GET location FILENAME name)
  list(APPEND private_names ${name})
  install(FILES "${location}" DESTINATION "${CMAKE_INSTALL_LIBDIR}/millrace" COMPONENT library)
endforeach()

install(TARGETS millrace_core ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT library)
install(DIRECTORY include/millrace DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT library FILES_MATCHING PATTERN "*.h")

list(JOIN private_names " " private_names)
list(JOIN private_system_libraries " " private_system_libraries)
set(package_folder "${CMAKE_INSTALL_LIBDIR}/cmake/millrace")
set(generated "${CMAKE_BINARY_DIR}/generated")
configure_package_config_file(cmake/millraceConfig.cmake.in "${generated}/millraceConfig.cmake"
  INSTALL_DESTINATION "${package_folder}" PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file("${generated}/millraceConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${generated}/millraceConfig.cmake" "${generated}/millraceConfigVersion.cmake"
        DESTINATION "${package_folder}" COMPONENT library)

if(TARGET millrace)
  install(TARGETS millrace RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT program)
endif()
# Under the name that the library calls itself, so that no link can get lost in copying.
if(MILLRACE_ONNXRUNTIME_LIBRARY)
  install(FILES "${MILLRACE_ONNXRUNTIME_LIBRARY}" DESTINATION "${CMAKE_INSTALL_LIBDIR}" RENAME libonnxruntime.so.1
          COMPONENT program PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
endif()

install(DIRECTORY python/millrace_variants DESTINATION "${CMAKE_INSTALL_DATADIR}/millrace/python" COMPONENT program
        FILES_MATCHING PATTERN "*.py")

# Licence texts of everything that is linked in or shipped along, by the package that it came from.
set(licence_folder "${CMAKE_INSTALL_DATADIR}/doc/millrace")
install(FILES LICENSE DESTINATION "${licence_folder}" COMPONENT program)
install(FILES cmake/bundle_readme.md DESTINATION "${licence_folder}" RENAME README.md COMPONENT program)
set(licensed onnxruntime libonnxruntime-dev libcli11-dev nlohmann-json3-dev libstb-dev zlib1g-dev)
if(MILLRACE_CUDA)
  list(APPEND licensed nvidia-cuda-runtime)
endif()
foreach(package IN LISTS licensed)
  file(GLOB texts "${MILLRACE_DEPS_DIR}/licences/${package}/*" "/usr/share/doc/${package}/copyright")
  if(package STREQUAL "nvidia-cuda-runtime" AND NOT texts)
    file(GLOB texts "${CUDAToolkit_TARGET_DIR}/EULA.txt" "${CUDAToolkit_BIN_DIR}/../EULA.txt")
  endif()
  if(texts)
    list(GET texts 0 first)
    cmake_path(GET first PARENT_PATH folder)
    list(FILTER texts INCLUDE REGEX "^${folder}/")  # the dependency folder's or the system's, not both
    install(FILES ${texts} DESTINATION "${licence_folder}/licences/${package}" COMPONENT program)
  else()
    message(STATUS "No licence text of ${package} was found: it will be missing from an installed program")
  endif()
endforeach()
