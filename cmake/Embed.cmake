# fl_embed(target header NAME file [NAME file ...]): text files as constants `std::string_view kName` of namespace
# fl::embedded in a generated header, rewritten when a file changes. The target `embedded` makes all of them and compiles
# nothing: what reads sources without building them (clang-tidy) needs it first.
add_custom_target(embedded)
set(FL_EMBED_SCRIPT ${CMAKE_CURRENT_LIST_DIR}/EmbedScript.cmake)
function(fl_embed target header)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/embedded/${header})
  set(pairs ${ARGN})
  set(files)
  list(LENGTH pairs n)
  math(EXPR last "${n} - 1")
  foreach(i RANGE 1 ${last} 2)
    list(GET pairs ${i} file)
    list(APPEND files ${file})
  endforeach()
  string(REPLACE ";" "," joined "${pairs}")
  add_custom_command(OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DOUTPUT=${output} "-DPAIRS=${joined}" -P ${FL_EMBED_SCRIPT}
    DEPENDS ${files} ${FL_EMBED_SCRIPT} VERBATIM)
  add_custom_target(${target}_embedded DEPENDS ${output})
  add_dependencies(embedded ${target}_embedded)
  add_dependencies(${target} ${target}_embedded)
  target_sources(${target} PRIVATE ${output})
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/embedded)
endfunction()
