#include <cstdio>

#include <fmt/format.h>

#include "apps/command.h"

namespace fl::apps {

int report_error(std::string_view command, const Error& error) {
  fmt::print(stderr, "freelunch {}: {}\n", command, error.message);
  switch (error.code) {
    case ErrorCode::invalid_argument:
    case ErrorCode::unsupported:
      return kUsage;
    case ErrorCode::bad_file:
    case ErrorCode::not_found:
      return kModelUnusable;
    case ErrorCode::does_not_fit:
      return kDoesNotFit;
    case ErrorCode::device:
      return kDevice;
    case ErrorCode::address:
      return kAddress;
    case ErrorCode::network:
      return kNetwork;
    case ErrorCode::sandbox:
      return kSandbox;
    case ErrorCode::integrity:
      return kIntegrity;
    case ErrorCode::unavailable:
    case ErrorCode::io:
    case ErrorCode::internal:
      return kFailure;
  }
  return kFailure;
}

}  // namespace fl::apps
