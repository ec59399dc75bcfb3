// The pin: UTF-8, character by character.
#include "pin.h"

#include <algorithm>

namespace lcg {
namespace {

struct range {
    uint32_t first, last;
};

// What the lead bytes E4 to E9 begin: ideographs of every variety, and 64 hexagrams.
constexpr uint32_t first_ideograph = 0x4000, last_ideograph = 0x9FFF;

size_t length_of(uint8_t lead) {
    return lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
}

// The code points that an open character can become (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF).
range completions(const open_character & open) {
    const size_t length = length_of(open.bytes[0]);
    uint32_t     bits   = open.bytes[0] & (0x7Fu >> length);
    for (size_t i = 1; i < open.size; i++) {
        bits = bits << 6 | (open.bytes[i] & 0x3Fu);
    }
    const size_t   missing = 6 * (length - open.size);
    const uint32_t least[] = {0x80, 0x800, 0x10000};
    range          r       = {bits << missing, ((bits + 1) << missing) - 1};
    r.first                = std::max(r.first, least[length - 2]);
    r.last                 = std::min<uint32_t>(r.last, n_code_points - 1);
    if (r.last >= 0xD800 && r.first <= 0xDFFF) { // no open character reaches over both ends of the surrogates
        r.last = std::min<uint32_t>(r.last, 0xD7FF);
    }
    return r;
}

enum class utf8 { invalid, open, complete };

// Adds a byte to what is open. `character` is set where it completes one.
utf8 add_byte(open_character & open, uint8_t byte, uint32_t & character) {
    if (open.size == 0) {
        if (byte < 0x80) {
            character = byte;
            return utf8::complete;
        }
        if (byte < 0xC2 || byte > 0xF4) {
            return utf8::invalid;
        }
        open.bytes[open.size++] = byte;
        return utf8::open;
    }
    if ((byte & 0xC0) != 0x80) {
        return utf8::invalid;
    }
    const range r = completions(open);
    if (open.size + 1u == length_of(open.bytes[0])) {
        const uint32_t found = (r.first & ~0x3Fu) | (byte & 0x3Fu);
        open.size            = 0;
        character            = found;
        return found >= r.first && found <= r.last ? utf8::complete : utf8::invalid;
    }
    open.bytes[open.size++] = byte;
    const range narrowed    = completions(open);
    return narrowed.first <= narrowed.last ? utf8::open : utf8::invalid;
}

} // namespace

pin::pin(std::shared_ptr<const letter_table> table, const family_set & denied, const std::vector<uint32_t> & kept)
    : table_(std::move(table)), denied_(denied), free_(table_->free), away_(free_.size()) {
    denied_.reset(table_->neutral);
    for (const uint32_t token : kept) {
        free_.at(token) = 1;
    }
    for (size_t token = 0; token < away_.size(); token++) {
        const std::string_view text = table_->texts->of(static_cast<int32_t>(token));
        if (!free_[token] && !text.empty() && (static_cast<uint8_t>(text[0]) & 0xC0) == 0x80) {
            continuing_.push_back(static_cast<uint32_t>(token));
        }
        away_[token] = forbids({}, token);
    }
}

// An open character says little of what it becomes: it may come if it can become an allowed letter, or if most of what
// it can become is no letter at all. The lead byte of a character of four bytes says nothing.
bool pin::may_open(const open_character & open) const {
    const range r         = completions(open);
    const bool  is_blank  = open.size == 1 && open.bytes[0] >= 0xF0;
    size_t      n_neutral = 0, n_denied = 0;
    for (uint32_t c = r.first; c <= r.last; c++) {
        const uint8_t family = table_->family[c];
        if (family == unassigned) {
            continue;
        }
        if (denies(family)) {
            n_denied++;
        } else if (family != table_->neutral || is_blank) {
            return true;
        } else {
            n_neutral++;
        }
    }
    return n_neutral > n_denied;
}

// White space and the beginning of an ideograph, which could become a denied one. Only the last byte would tell, and
// where it is the wrong one, whatever else can follow is another word. The white space alone can come instead, and then
// the ideograph whole.
bool pin::splits(std::string_view text, const open_character & open) const {
    const auto blanks = text.substr(0, text.size() - open.size);
    if (blanks.empty() || blanks.find_first_not_of(" \t\n\r") != std::string_view::npos) {
        return false;
    }
    const range r = completions(open);
    if (r.first < first_ideograph || r.last > last_ideograph) {
        return false;
    }
    return std::any_of(
        &table_->family[r.first], &table_->family[r.last] + 1, [this](uint8_t family) { return denies(family); });
}

bool pin::forbids(open_character open, size_t token) const {
    if (free_[token]) {
        return open.size > 0; // it would end a character that is not complete
    }
    const std::string_view text   = table_->texts->of(static_cast<int32_t>(token));
    const bool             begins = open.size == 0;
    for (const char byte : text) {
        uint32_t   character = 0;
        const utf8 found     = add_byte(open, static_cast<uint8_t>(byte), character);
        if (found == utf8::invalid || (found == utf8::complete && denies(table_->family[character]))) {
            return true;
        }
    }
    return open.size > 0 && (!may_open(open) || (begins && splits(text, open)));
}

const uint8_t * pin::away(const open_character & open, std::vector<uint8_t> & scratch) const {
    if (open.size == 0) {
        return away_.data();
    }
    scratch.assign(away_.size(), 1);
    for (const uint32_t token : continuing_) {
        scratch[token] = forbids(open, token);
    }
    return scratch.data();
}

open_character pin::after(open_character open, int32_t token) const {
    const auto id = static_cast<size_t>(token);
    if (token < 0 || id >= away_.size() || free_[id]) {
        return {};
    }
    for (const char c : table_->texts->of(token)) {
        uint32_t   character = 0;
        const auto byte      = static_cast<uint8_t>(c);
        if (add_byte(open, byte, character) == utf8::invalid) {
            open = {};
            add_byte(open, byte, character); // it may begin the next one
        }
    }
    return open;
}

} // namespace lcg
