// Which tokens may come where a text must stay in some scripts: exact to the letter, also where tokens hold pieces of
// characters (pin.cpp).
#pragma once

#include "phases.h"

namespace lcg {

constexpr size_t  n_code_points = 0x110000;
constexpr uint8_t unassigned    = 255;

// The first bytes of a character that is not complete; size 0: there is none.
struct open_character {
    uint8_t bytes[3] = {};
    uint8_t size     = 0;
};

// The letters and the tokens of a model, shared by all its pins.
struct letter_table {
    std::vector<uint8_t>               family; // [n_code_points]: of each character, or `unassigned`
    uint8_t                            neutral = 0;
    std::shared_ptr<const token_texts> texts;
    std::vector<uint8_t>               free; // [n_vocab]: tokens that are no text are never pinned away
};

// Immutable and shared, made for one set of families that shall not come out.
class pin {
  public:
    // kept: tokens that may come whatever their letters are
    pin(std::shared_ptr<const letter_table> table, const family_set & denied, const std::vector<uint32_t> & kept);

    size_t n_vocab() const { return away_.size(); }
    // [n_vocab]: the tokens that are pinned away behind `open`. Uses `scratch` where a character is open.
    const uint8_t * away(const open_character & open, std::vector<uint8_t> & scratch) const;
    // What is open when `token` has followed.
    open_character after(open_character open, int32_t token) const;

  private:
    bool denies(uint8_t family) const { return family != unassigned && denied_[family]; }
    bool forbids(open_character open, size_t token) const;
    bool may_open(const open_character & open) const;
    bool splits(std::string_view text, const open_character & open) const;

    std::shared_ptr<const letter_table> table_;
    family_set                          denied_;
    std::vector<uint8_t>                free_;
    std::vector<uint8_t>                away_;       // [n_vocab], where no character is open
    std::vector<uint32_t>               continuing_; // tokens whose first byte continues a character
};

} // namespace lcg
