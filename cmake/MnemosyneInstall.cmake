# What is installed, and the Debian package. Included after the targets are there.
#
#   cmake --install build/release --component programs --prefix /usr/local    # programs, model, manuals, completion
#   cpack -G DEB --config build/release/CPackConfig.cmake -B build/package    # these, and a service of systemd's
#
# `mnemosyne_programs` builds what is installed and no test.
if(MNEMOSYNE_SANITIZE)
  return()  # nobody installs these
endif()
find_package(Python3 REQUIRED COMPONENTS Interpreter)

set(programs mnemosyned mnemosyne-admin mnemo mnemo-train mnemo-bench)
set(manuals)
foreach(program IN LISTS programs)
  string(REGEX MATCH "^mnemosyne" serves ${program})
  set(section 1)
  if(serves)
    set(section 8)
  endif()
  set(manual ${CMAKE_BINARY_DIR}/man/man${section}/${program}.${section}.gz)
  add_custom_command(OUTPUT ${manual}
    COMMAND Python3::Interpreter ${CMAKE_SOURCE_DIR}/deploy/man/make_man.py $<TARGET_FILE:${program}> ${PROJECT_VERSION} ${manual}
    DEPENDS ${program} ${CMAKE_SOURCE_DIR}/deploy/man/make_man.py
    COMMENT "Manual of ${program}"
    VERBATIM)
  list(APPEND manuals ${manual})
  # Bash looks for a file that has the program's name.
  install(FILES deploy/completion/mnemo.bash DESTINATION share/bash-completion/completions RENAME ${program}
    COMPONENT programs)
  install(FILES ${manual} DESTINATION share/man/man${section} COMPONENT programs)
endforeach()
add_custom_target(mnemosyne_programs ALL DEPENDS ${manuals})
add_dependencies(mnemosyne_programs ${programs} mnemosyne_sentencepiece)

install(TARGETS ${programs} RUNTIME DESTINATION bin COMPONENT programs)
# Beside bin/, where the programs look for it (core/model/sentence_pieces.cc): not in a folder of the machine's kind.
install(TARGETS mnemosyne_sentencepiece LIBRARY DESTINATION lib COMPONENT programs)
# Where mnemosyned looks for it (server/flags.cc).
install(DIRECTORY models/recall DESTINATION share/mnemosyne/models COMPONENT programs PATTERN "*.jsonl" EXCLUDE)
install(FILES README.md DESTINATION share/doc/mnemosyne COMPONENT programs)
install(DIRECTORY docs DESTINATION share/doc/mnemosyne COMPONENT programs FILES_MATCHING PATTERN "*.md")
if(EXISTS ${CMAKE_SOURCE_DIR}/LICENSE)
  install(FILES LICENSE DESTINATION share/doc/mnemosyne RENAME copyright COMPONENT programs)
endif()

# At places that do not depend on the prefix: in the package only.
install(FILES deploy/systemd/mnemosyned.service DESTINATION /lib/systemd/system COMPONENT debian EXCLUDE_FROM_ALL)
install(FILES deploy/systemd/mnemosyned.flags DESTINATION /etc/mnemosyne COMPONENT debian EXCLUDE_FROM_ALL)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME mnemosyne)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "The Mnemosyne authors <mnemosyne@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "server of sessions that learn what is streamed to them")
set(CPACK_PACKAGE_DESCRIPTION "A client streams text or tokens to a session over gRPC; the session's own Titans model writes
them into its neural long-term memory while it reads, and answers questions from it.")
set(CPACK_INSTALL_CMAKE_PROJECTS
  "${CMAKE_BINARY_DIR}" mnemosyne programs / "${CMAKE_BINARY_DIR}" mnemosyne debian /)
# DESTDIR, as the prefix does not move what has a fixed place.
set(CPACK_SET_DESTDIR ON)
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
# dpkg-shlibdeps names what the programs are linked with. Not what they only run well with: without OpenBLAS LibTorch
# takes the reference BLAS.
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "adduser, init-system-helpers, libopenblas0-pthread")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "wordnet-base")  # mnemo-train and mnemo-bench make facts of it
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
  ${CMAKE_SOURCE_DIR}/deploy/debian/conffiles
  ${CMAKE_SOURCE_DIR}/deploy/debian/postinst
  ${CMAKE_SOURCE_DIR}/deploy/debian/prerm
  ${CMAKE_SOURCE_DIR}/deploy/debian/postrm)
include(CPack)
