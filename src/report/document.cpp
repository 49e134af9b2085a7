#include "report/document.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "report/json_fields.h"

namespace fl::report {
namespace {

constexpr size_t kMaxDocumentBytes = size_t{64} << 20;
constexpr const char* kSchemaId = "https://json-schema.org/draft/2020-12/schema";

template <typename T, typename F>
void for_each_text(T& value, const F& f) {
  if constexpr (std::is_same_v<T, std::string>) {
    f(value);
  } else if constexpr (IsOptional<T>::value) {
    if (value) {
      for_each_text(*value, f);
    }
  } else if constexpr (IsVector<T>::value) {
    for (auto& item : value) {
      for_each_text(item, f);
    }
  } else if constexpr (!kIsPlain<T>) {
    Fields<T>::visit([&](const char*, auto member, const char*) { for_each_text(value.*member, f); });
  }
}

// Builds the "$defs" of every struct that `T` reaches.
class SchemaMaker {
 public:
  template <typename T>
  Json of() {
    if constexpr (std::is_same_v<T, bool>) {
      return {{"type", "boolean"}};
    } else if constexpr (std::is_integral_v<T>) {
      return {{"type", "integer"}};
    } else if constexpr (std::is_floating_point_v<T>) {
      return {{"type", "number"}};
    } else if constexpr (std::is_same_v<T, std::string>) {
      return {{"type", "string"}};
    } else if constexpr (IsOptional<T>::value) {
      return of<typename T::value_type>();
    } else if constexpr (IsVector<T>::value) {
      return {{"type", "array"}, {"items", of<typename T::value_type>()}};
    } else {
      define<T>();
      return {{"$ref", std::string("#/$defs/") + Fields<T>::kName}};
    }
  }

  template <typename T>
  Json object() {
    Json properties = Json::object();
    Json required = Json::array();
    Fields<T>::visit([&](const char* name, auto member, const char* description) {
      using Field = std::decay_t<decltype(std::declval<T>().*member)>;
      Json field = of<Field>();
      if (*description != 0) {
        field["description"] = description;
      }
      properties[name] = std::move(field);
      if (!IsOptional<Field>::value) {
        required.push_back(name);
      }
    });
    return {{"type", "object"},
            {"description", Fields<T>::kTitle},
            {"properties", std::move(properties)},
            {"required", std::move(required)}};
  }

  Json take_definitions() {
    Json out = Json::object();
    for (auto& [name, schema] : definitions_) {
      out[name] = std::move(schema);
    }
    return out;
  }

 private:
  template <typename T>
  void define() {
    const std::string name = Fields<T>::kName;
    if (definitions_.contains(name)) {
      return;
    }
    definitions_[name] = Json();
    Json schema = object<T>();
    definitions_[name] = std::move(schema);
  }

  std::map<std::string, Json> definitions_;
};

}  // namespace

const Cell* find_cell(const Document& document, int64_t ctx, int64_t chats, std::string_view depth) {
  for (const Cell& cell : document.cells) {
    if (cell.ctx == ctx && cell.chats == chats && cell.depth == depth) {
      return &cell;
    }
  }
  return nullptr;
}

std::string to_json(const Document& document) {
  return json_of(document).dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<Document> document_from_json(std::string_view text) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) {
    return fail(ErrorCode::bad_file, "a report is expected, found text that is not JSON");
  }
  if (!json.is_object() || !json.contains("schema_version") || !json["schema_version"].is_number_integer()) {
    return fail(ErrorCode::bad_file, "a report is expected, found JSON without a schema_version");
  }
  if (json["schema_version"].get<int64_t>() != kSchemaVersion) {
    return fail(ErrorCode::bad_file,
                fmt::format("a report of schema version {} is expected, found version {}", kSchemaVersion,
                            json["schema_version"].get<int64_t>()));
  }
  Document out;
  try {
    read_json(json, out, "");
  } catch (const FieldError& error) {
    return fail(ErrorCode::bad_file, error.what());
  }
  return out;
}

Document without_folders(const Document& document, std::vector<std::string> folders) {
  std::erase_if(folders, [](const std::string& folder) { return folder.size() < 2; });
  std::sort(folders.begin(), folders.end(),
            [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  Document out = document;
  for_each_text(out, [&](std::string& text) {
    for (const std::string& folder : folders) {
      const std::string prefix = folder + "/";
      for (size_t at = text.find(prefix); at != std::string::npos; at = text.find(prefix, at)) {
        text.erase(at, prefix.size());
      }
    }
  });
  return out;
}

Result<Document> read_document(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return fail(ErrorCode::not_found, fmt::format("cannot open '{}': {}", path, std::strerror(errno)));
  }
  std::ostringstream text;
  text << file.rdbuf();
  if (text.str().size() > kMaxDocumentBytes) {
    return fail(ErrorCode::bad_file, fmt::format("'{}' is larger than {} bytes", path, kMaxDocumentBytes));
  }
  auto document = document_from_json(text.str());
  if (!document) {
    return fail(std::move(document.error()), "'" + path + "'");
  }
  return document;
}

std::string report_schema() {
  SchemaMaker maker;
  Json schema = {{"$schema", kSchemaId},
                 {"title", fmt::format("freelunch report, version {}", kSchemaVersion)}};
  schema.update(maker.object<Document>());
  schema["properties"]["schema_version"]["const"] = kSchemaVersion;
  schema["$defs"] = maker.take_definitions();
  return schema.dump(1) + "\n";
}

}  // namespace fl::report
