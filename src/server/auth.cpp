#include "server/auth.h"

#include <cstring>
#include <fstream>

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "server/server.h"

namespace fl::server {

ApiKeys::ApiKeys(const std::vector<std::string>& keys) {
  FL_CHECK(RAND_bytes(secret_.data(), static_cast<int>(secret_.size())) == 1,
           "the system has no random bytes");
  for (const std::string& key : keys) {
    Key entry{digest(key), 0};
    // Not the bytes that are compared: a salt may show in a log one day.
    const Digest salted = digest("salt of the cache\n" + key);
    std::memcpy(&entry.salt, salted.data(), sizeof entry.salt);
    keys_.push_back(entry);
  }
}

ApiKeys::Digest ApiKeys::digest(std::string_view key) const {
  Digest out{};
  unsigned int n = out.size();
  const auto* bytes = reinterpret_cast<const unsigned char*>(key.data());
  FL_CHECK(HMAC(EVP_sha256(), secret_.data(), static_cast<int>(secret_.size()), bytes, key.size(), out.data(),
                &n) != nullptr,
           "HMAC failed");
  return out;
}

std::optional<uint64_t> ApiKeys::admit(const std::optional<std::string>& authorization,
                                       const std::optional<std::string>& x_api_key) const {
  if (keys_.empty()) {
    return 0;
  }
  std::string_view given;
  if (authorization) {
    constexpr std::string_view kBearer = "Bearer ";
    given = *authorization;
    given.remove_prefix(given.starts_with(kBearer) ? kBearer.size() : 0);
  } else if (x_api_key) {
    given = *x_api_key;
  }
  const Digest mine = digest(given);
  std::optional<uint64_t> salt;
  for (const Key& key : keys_) {  // all of them, whichever fits
    if (CRYPTO_memcmp(mine.data(), key.digest.data(), mine.size()) == 0) {
      salt = key.salt;
    }
  }
  return salt;
}

Result<std::vector<std::string>> read_api_keys(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    return fail(ErrorCode::not_found, fmt::format("--api-key-file: cannot read {}", path));
  }
  std::vector<std::string> keys;
  for (std::string line; std::getline(file, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) {
      line.pop_back();
    }
    if (!line.empty() && line.front() != '#') {
      keys.push_back(line);
    }
  }
  if (keys.empty()) {
    return fail(ErrorCode::invalid_argument,
                fmt::format("--api-key-file: expected one key a line in {}, found none", path));
  }
  return keys;
}

}  // namespace fl::server
