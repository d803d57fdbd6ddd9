// Errors of the native side. The binding turns each into one JavaScript Error.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace mt {

/// A tensor has the wrong shape, dtype, device or layout. Becomes a TypeError.
struct shape_error : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// Joins printable values into one string.
template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws a shape_error with the joined message unless `ok`. Every call of an operator passes dozens of these, so parts
/// are to cost nothing before they are printed.
template <typename... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]]
    throw shape_error(text(parts...));
}

}  // namespace mt
