// Errors as values. Bad input and missing capacity are a `Result`; a device failure is an exception that ends
// at the step boundary; a broken invariant throws std::logic_error in every build (`FL_CHECK`).
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include <tl/expected.hpp>

namespace fl {

/// What kind of failure, decided once: the server maps it to a status and the command line to an exit code.
enum class ErrorCode {
  invalid_argument,  ///< the caller's value is wrong: HTTP 400, exit 2
  bad_file,          ///< a model or data file is damaged, foreign or unsupported: exit 3
  does_not_fit,      ///< not enough memory, context, slots or queue: exit 4
  device,            ///< the GPU or its driver: exit 5
  address,           ///< port in use or not permitted: exit 6
  not_found,         ///< a file or a name that is not there: exit 3 for a model, HTTP 404 for a route
  network,           ///< a server that we asked does not answer: exit 7
  sandbox,           ///< generated code cannot be contained here: exit 8
  integrity,         ///< the measurement cannot be trusted: exit 9
  unavailable,       ///< not in a state to answer now (loading, draining): HTTP 503
  unsupported,       ///< known, valid, and not built: refused by name: HTTP 501, exit 2
  io,                ///< the operating system refused to read or write: exit 1
  internal,          ///< our fault: HTTP 500, exit 1
};

struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;  ///< one sentence: what was expected, what was found, and where
};

template <typename T>
using Result = tl::expected<T, Error>;

using Status = Result<void>;

/// `return fail(ErrorCode::bad_file, fmt::format(...));`
inline tl::unexpected<Error> fail(ErrorCode code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}

/// Passes an error on with the place it came from in front: "shard 2: offset 40: ...".
inline tl::unexpected<Error> fail(Error error, const std::string& where) {
  error.message = where + ": " + error.message;
  return tl::unexpected<Error>(std::move(error));
}

}  // namespace fl

/// Returns the error of `expr` from the enclosing function.
#define FL_TRY(expr)                                                      \
  do {                                                                    \
    if (auto fl_status = (expr); !fl_status) {                            \
      return ::tl::unexpected<::fl::Error>(std::move(fl_status.error())); \
    }                                                                     \
  } while (false)

#define FL_CONCAT_INNER(a, b) a##b
#define FL_CONCAT(a, b) FL_CONCAT_INNER(a, b)

/// `FL_ASSIGN(auto file, gguf::File::open(path));`
#define FL_ASSIGN(declaration, expr)                                                          \
  auto FL_CONCAT(fl_result_, __LINE__) = (expr);                                              \
  if (!FL_CONCAT(fl_result_, __LINE__)) {                                                     \
    return ::tl::unexpected<::fl::Error>(std::move(FL_CONCAT(fl_result_, __LINE__).error())); \
  }                                                                                           \
  declaration = std::move(*FL_CONCAT(fl_result_, __LINE__))

/// An invariant of our own code. Throws in all builds; never reachable from bytes we did not write.
#define FL_CHECK(condition, what)                                                                     \
  do {                                                                                                \
    if (!(condition)) {                                                                               \
      throw std::logic_error(std::string(__FILE__) + ":" + std::to_string(__LINE__) + ": " + (what)); \
    }                                                                                                 \
  } while (false)
