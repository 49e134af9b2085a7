// What the report records about the model's file and the machine's ceilings, from the rooms that know.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "report/document.h"

namespace fl::apps::report {

/// Name, type, sizes and hash of a GGUF file of our family. Errors: those of reading and binding it.
Result<fl::report::Model> model_facts(const std::string& path);
/// Of a file that we do not run (a peer's model): size and hash only.
Result<fl::report::Model> file_facts(const std::string& path);

/// "xxh3-128:…" of a file's bytes. Errors: not_found, io.
Result<std::string> file_hash(const std::string& path);

}  // namespace fl::apps::report
