#include "codebooks.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace kq {
namespace {

// `sorted` has `size` values; fills the tree of their size - 1 midpoints. float64 holds the midpoint of two
// float32 values exactly unless their exponents lie more than 29 apart.
void build_tree(const float* sorted, int size, double* tree) {
    tree[0] = 0.0;
    int node = 1;
    for (int width = size; width > 1; width /= 2) {
        for (int left = width / 2; left < size; left += width) {
            tree[node++] = (static_cast<double>(sorted[left - 1]) + sorted[left]) / 2;
        }
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
    build_tree(sorted, 16, book.thresholds);
    book.zero = static_cast<uint8_t>(std::find(book.values, book.values + 16, 0.0f) - book.values);
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

Codebook8 codebook_8bit(const float* values) {
    Codebook8 book;
    std::copy(values, values + 256, book.values);
    build_tree(book.values, 256, book.thresholds);
    int node = 1;
    while (node < 256) node = 2 * node + (0.0 > book.thresholds[node] ? 1 : 0);
    book.zero = static_cast<uint8_t>(node - 256);
    return book;
}

}  // namespace kq
