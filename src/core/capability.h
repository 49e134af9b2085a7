// Compute capabilities, as 10 * major + minor: 89, 90, 120.
#pragma once

#include <string>
#include <string_view>

namespace fl {

/// Whether a device of capability `arch` runs code built for `archs` ("80,86,90"): machine code runs on
/// devices of its own major version from its minor version on, and the intermediate code of the newest, which
/// is kept (cmake/Cuda.cmake), on everything from it on. True where an entry is more than a number: what it
/// asks for is then for the runtime to say. CUDA C++ Programming Guide, "Application Compatibility".
bool runs_device_code(std::string_view archs, int arch);

/// For a device on which no such code runs: what it is, what there is and what to do.
std::string missing_device_code(std::string_view archs, int arch, std::string_view device_name);

}  // namespace fl
