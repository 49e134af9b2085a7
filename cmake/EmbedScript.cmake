# Run by fl_embed: writes OUTPUT from PAIRS ("Name,path,Name,path").
string(REPLACE "," ";" pairs "${PAIRS}")
set(text "// Generated from files of the repository by cmake/EmbedScript.cmake.\n#pragma once\n\n#include <string_view>\n\nnamespace fl::embedded {\n\n")
while(pairs)
  list(POP_FRONT pairs name file)
  # A literal of escapes: no delimiter that a file could contain.
  file(READ ${file} content HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "\\\\x\\1" content "${content}")
  file(SIZE ${file} size)
  string(APPEND text "inline constexpr std::string_view k${name}{\n    \"${content}\",\n    ${size}};\n\n")
endwhile()
string(APPEND text "}  // namespace fl::embedded\n")
file(WRITE ${OUTPUT} "${text}")
