// The tokens of a model, and the hash that says whether two models share a tokenizer (base_model.py computes the same).
#include "vocab.h"

#include <array>
#include <cstring>

namespace lcg {
namespace {

// SHA-256 (FIPS 180-4).
class sha256 {
  public:
    void add(const void * data, size_t size) {
        const auto * bytes = static_cast<const uint8_t *>(data);
        n_bytes_ += size;
        for (size_t i = 0; i < size; i++) {
            block_[n_in_block_++] = bytes[i];
            if (n_in_block_ == block_.size()) {
                mix();
                n_in_block_ = 0;
            }
        }
    }

    std::string hex() {
        const uint64_t n_bits = n_bytes_ * 8;
        const uint8_t  end = 0x80, zero = 0;
        add(&end, 1);
        while (n_in_block_ != 56) {
            add(&zero, 1);
        }
        for (int shift = 56; shift >= 0; shift -= 8) {
            const auto byte = static_cast<uint8_t>(n_bits >> shift);
            add(&byte, 1);
        }
        std::string digits;
        for (const uint32_t word : state_) {
            for (int shift = 28; shift >= 0; shift -= 4) {
                digits += "0123456789abcdef"[word >> shift & 15];
            }
        }
        return digits;
    }

  private:
    static uint32_t rotated(uint32_t x, int n) { return x >> n | x << (32 - n); }

    void mix() {
        static constexpr uint32_t k[64] = {0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1,
            0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7,
            0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
            0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
            0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
            0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c,
            0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
            0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
        uint32_t                  w[64];
        for (size_t i = 0; i < 16; i++) {
            const uint8_t * b = &block_[4 * i];
            w[i]              = uint32_t(b[0]) << 24 | uint32_t(b[1]) << 16 | uint32_t(b[2]) << 8 | b[3];
        }
        for (size_t i = 16; i < 64; i++) {
            const uint32_t s0 = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3;
            const uint32_t s1 = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i]              = w[i - 16] + s0 + w[i - 7] + s1;
        }
        std::array<uint32_t, 8> v = state_;
        for (size_t i = 0; i < 64; i++) {
            const uint32_t s1     = rotated(v[4], 6) ^ rotated(v[4], 11) ^ rotated(v[4], 25);
            const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
            const uint32_t t1     = v[7] + s1 + choice + k[i] + w[i];
            const uint32_t s0     = rotated(v[0], 2) ^ rotated(v[0], 13) ^ rotated(v[0], 22);
            const uint32_t t2     = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            v                     = {t1 + t2, v[0], v[1], v[2], v[3] + t1, v[4], v[5], v[6]};
        }
        for (size_t i = 0; i < state_.size(); i++) {
            state_[i] += v[i];
        }
    }

    std::array<uint32_t, 8> state_ = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<uint8_t, 64> block_      = {};
    size_t                  n_in_block_ = 0;
    uint64_t                n_bytes_    = 0;
};

void add_text(sha256 & digest, const std::string & text) {
    const auto    size      = static_cast<uint32_t>(text.size());
    const uint8_t length[4] = {uint8_t(size), uint8_t(size >> 8), uint8_t(size >> 16), uint8_t(size >> 24)};
    digest.add(length, 4);
    digest.add(text.data(), text.size());
}

// Conversions spell spaces as "▁" or " ", and call a token without a text [PAD<id>] or nothing, which the engine in
// turn calls [EMPTY_<id>].
std::string common_text(int32_t token, std::string text) {
    const std::string id = std::to_string(token), space = "\xE2\x96\x81";
    if (text == "[PAD" + id + "]" || text == "[EMPTY_" + id + "]") {
        return "";
    }
    for (size_t at = text.find(space); at != std::string::npos; at = text.find(space, at + 1)) {
        text.replace(at, space.size(), " ");
    }
    return text;
}

} // namespace

std::string token_bytes(const llama_vocab * vocab, int32_t token) {
    std::string piece(64, '\0');
    const auto  read = [&] {
        return host.llama_token_to_piece(vocab, token, piece.data(), static_cast<int32_t>(piece.size()), 0, true);
    };
    int32_t n = read();
    if (n < 0) {
        piece.resize(static_cast<size_t>(-n));
        n = read();
    }
    piece.resize(static_cast<size_t>(n));
    return piece;
}

std::shared_ptr<const token_texts> texts_of(const llama_vocab * vocab) {
    auto texts = std::make_shared<token_texts>();
    texts->offset.push_back(0);
    for (int32_t token = 0; token < host.llama_vocab_n_tokens(vocab); token++) {
        texts->bytes += token_bytes(vocab, token);
        texts->offset.push_back(static_cast<int64_t>(texts->bytes.size()));
    }
    return texts;
}

bool has_tokenizer_hash(const llama_vocab * vocab, const std::string & hash) {
    static const std::string version = "v2:";
    const bool               is_v2   = hash.compare(0, version.size(), version) == 0;
    sha256                   digest;
    for (int32_t token = 0; token < host.llama_vocab_n_tokens(vocab); token++) {
        const char * text = is_v2 ? host.llama_vocab_get_text(vocab, token) : nullptr;
        add_text(digest, is_v2 ? common_text(token, text != nullptr ? text : "") : token_bytes(vocab, token));
    }
    return hash == (is_v2 ? version : "") + digest.hex();
}

} // namespace lcg
