// The system-call filter of the sandbox: what CPython needs to run one program in one process, nothing else.
#pragma once

#include <string>

#include "base/result.h"

namespace fl::eval {

/// The compiled filter (BPF). Default: EPERM. Calls that only an attack makes end the process. New threads
/// are allowed, new processes are not. unavailable: libseccomp refuses.
Result<std::string> make_seccomp_filter();

}  // namespace fl::eval
