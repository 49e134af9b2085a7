// API keys. Compared as digests of one size in constant time, so a reply's time says nothing about a key.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fl::server {

class ApiKeys {
 public:
  explicit ApiKeys(const std::vector<std::string>& keys);

  /// `authorization`: "Bearer K" or the bare key; `x_api_key` counts when that header is absent. The result
  /// is the salt of the key's prefix cache, made by this server: chats of two keys never share cached text,
  /// and no client can choose it. Without keys everyone is let in with salt 0; nullopt: no or a wrong key.
  std::optional<uint64_t> admit(const std::optional<std::string>& authorization,
                                const std::optional<std::string>& x_api_key) const;

 private:
  using Digest = std::array<unsigned char, 32>;
  struct Key {
    Digest digest;
    uint64_t salt;
  };
  Digest digest(std::string_view key) const;

  Digest secret_;  ///< of this process
  std::vector<Key> keys_;
};

}  // namespace fl::server
