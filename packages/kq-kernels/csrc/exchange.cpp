#include "exchange.h"

#include <cstdint>

namespace kq {
namespace {

namespace nb = nanobind;

constexpr uint32_t kMajorVersion = 1;

// The layout is part of DLPack's binary interface (struct DLPackExchangeAPI). The header is that of every
// version.
struct Header {
    uint32_t major;
    uint32_t minor;
    const Header* older;
};

struct Table {
    Header header;
    void (*allocate)();
    void (*managed_from_object)();
    void (*object_from_managed)();
    int (*describe)(void* object, nb::dlpack::dltensor* out);  // may be null
    void (*current_stream)();
};

const Table* table_of(nb::handle type) {
    static PyObject* const name = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
    const nb::object capsule = nb::steal(PyObject_GetAttr(type.ptr(), name));
    if (!capsule.is_valid()) return nullptr;
    auto* header = static_cast<const Header*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (header != nullptr && header->major > kMajorVersion) header = header->older;
    if (header == nullptr || header->major != kMajorVersion) return nullptr;
    return reinterpret_cast<const Table*>(header);
}

}  // namespace

bool describe_by_exchange(nb::handle object, nb::dlpack::dltensor& out) {
    const Table* table = table_of(object.type());
    if (table != nullptr && table->describe != nullptr) {
        if (table->describe(object.ptr(), &out) == 0) return true;
    }
    PyErr_Clear();
    return false;
}

}  // namespace kq
