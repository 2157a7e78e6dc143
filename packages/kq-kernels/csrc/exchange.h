// Reading arrays through the C table that a framework puts on its array type (DLPack's
// __dlpack_c_exchange_api__). It says what a DLPack capsule says, at a fraction of the cost: nothing is made.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace kq {

// Describes `object` in `out` and returns true, or returns false: its type has no such table, or the table
// cannot describe it. What `out` points to lives as long as the object and is not to be kept. Whether
// the array may be written is not told.
bool describe_by_exchange(nanobind::handle object, nanobind::dlpack::dltensor& out);

}  // namespace kq
