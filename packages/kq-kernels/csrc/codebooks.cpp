#include "codebooks.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <mutex>

namespace kq {
namespace {

// float64 holds the midpoint of two float32 values exactly unless their exponents lie more than 29 apart.
double midpoint(const float* sorted, int i) { return (static_cast<double>(sorted[i]) + sorted[i + 1]) / 2; }

// The threshold at place `path` of a level, among `size` values, splits the ranks from path * width.
double tree_threshold(const float* sorted, int size, int level, int path) {
    const int width = size >> level;
    return midpoint(sorted, path * width + width / 2 - 1);
}

// Far more than the roundings of value / scale can move a value that is not above 1.
constexpr double kBinSlack = 1e-4;

void build_grid(Codebook4* book) {
    book->regular = true;
    for (int i = 0; i < 16; ++i) book->regular = book->regular && book->code_of_rank[i] == i;
    for (int bin = 0; bin < 32; ++bin) {
        const double left = (bin - kMiddleBin - 0.5 - kBinSlack) / kBinsPerUnit;
        const double right = (bin - kMiddleBin + 0.5 + kBinSlack) / kBinsPerUnit;
        const auto below = std::lower_bound(book->thresholds, book->thresholds + 15, left);
        book->rank_of_bin[bin] = static_cast<int32_t>(below - book->thresholds);
        book->regular = book->regular && std::upper_bound(below, book->thresholds + 15, right) - below <= 1;
    }
}

Codebook4 make_4bit(const uint32_t (&bits_by_code)[16], const int32_t (&code_of_rank)[16]) {
    Codebook4 book;
    float sorted[16];
    for (int i = 0; i < 16; ++i) {
        book.values[i] = std::bit_cast<float>(bits_by_code[i]);
        book.code_of_rank[i] = code_of_rank[i];
    }
    for (int i = 0; i < 16; ++i) sorted[i] = book.values[code_of_rank[i]];
    for (int i = 0; i < 15; ++i) book.thresholds[i] = midpoint(sorted, i);
    book.thresholds[15] = std::numeric_limits<double>::infinity();
    book.tree[0] = 0.0;
    for (int level = 0; level < 4; ++level) {
        for (int path = 0; path < 1 << level; ++path) {
            book.tree[(1 << level) + path] = tree_threshold(sorted, 16, level, path);
        }
    }
    book.zero = static_cast<uint8_t>(std::find(book.values, book.values + 16, 0.0f) - book.values);
    build_grid(&book);
    return book;
}

Codebook8 make_8bit(const float* values) {
    Codebook8 book;
    std::copy(values, values + 256, book.values);
    book.tree[0] = 0.0;
    for (int level = 0; level < 8; ++level) {
        for (int path = 0; path < 1 << level; ++path) {
            book.tree[(1 << level) + reversed_bits(path, level)] =
                tree_threshold(book.values, 256, level, path);
        }
    }
    int zero = 0;
    while (zero < 255 && 0.0 > midpoint(book.values, zero)) ++zero;
    book.zero = static_cast<uint8_t>(zero);
    book.dynamic = dynamic_map(values);
    return book;
}

}  // namespace

const Codebook4& codebook_4bit(QuantType type) {
    static const Codebook4 nf4 = make_4bit(
        {0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
         0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000},
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
    // Both code 0 and code 8 are zero; of the two, 0 is the lower neighbor.
    static const Codebook4 fp4 = make_4bit(
        {0x00000000, 0x3baaaaab, 0x3f2aaaab, 0x3f800000, 0x3eaaaaab, 0x3f000000, 0x3e2aaaab, 0x3e800000,
         0x00000000, 0xbbaaaaab, 0xbf2aaaab, 0xbf800000, 0xbeaaaaab, 0xbf000000, 0xbe2aaaab, 0xbe800000},
        {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3});
    return type == QuantType::nf4 ? nf4 : fp4;
}

std::shared_ptr<const Codebook8> codebook_8bit(const float* values) {
    static std::mutex mutex;
    static std::shared_ptr<const Codebook8> recent[4];
    static size_t oldest = 0;
    const std::lock_guard lock(mutex);
    for (const auto& book : recent) {
        // As bytes: -0.0 and 0.0 are different values to decode to.
        if (book != nullptr && std::memcmp(book->values, values, sizeof book->values) == 0) return book;
    }
    auto& replaced = recent[oldest++ % 4];
    replaced = std::make_shared<const Codebook8>(make_8bit(values));
    return replaced;
}

}  // namespace kq
