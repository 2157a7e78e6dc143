// Decoding a run of packed 4-bit codes that share one scale.
#pragma once

namespace kq::KQ_ISA {

// codes: first code in a high nibble; out: n values code * scale, rounded to float32 and then to T.
template <class T>
static inline void decode_run(const uint8_t* codes, int64_t n, float scale, const Table16& values, T* out) {
    constexpr int64_t kCodes = Decoder16<T>::kCodes;
    const Decoder16<T> decode(values, set1(scale));
    int64_t i = 0;
    for (; i + kCodes <= n; i += kCodes) decode(codes + i / 2, out + i);
    if (i < n) {
        uint8_t packed[kCodes / 2] = {};
        T tail[kCodes];
        std::memcpy(packed, codes + i / 2, static_cast<size_t>((n - i + 1) / 2));
        decode(packed, tail);
        std::memcpy(out + i, tail, static_cast<size_t>(n - i) * sizeof(T));
    }
}

// Columns [begin, end) of one row; `begin` is even.
template <class T>
static inline void decode_row(const uint8_t* codes, const Scales& scales, const Geometry& g,
                              const Table16& values, int64_t row, int64_t begin, int64_t end, T* out) {
    const uint8_t* packed = codes + row * g.bytes_per_row();
    const int block_shift = __builtin_ctzll(static_cast<unsigned long long>(g.blocksize));
    const int64_t first_block = row * g.blocks_per_row();
    for (int64_t col = begin; col < end;) {
        const int64_t block = col >> block_shift;
        const int64_t limit = (block + 1) << block_shift;
        const int64_t stop = limit < end ? limit : end;
        const float scale = scale_of_block(scales, first_block + block);
        decode_run(packed + col / 2, stop - col, scale, values, out + (col - begin));
        col = stop;
    }
}

}  // namespace kq::KQ_ISA
