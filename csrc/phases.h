// Parts of a reply that have options of their own, told by the marks around them: thoughts, code, calls of tools
// (phases.cpp).
#pragma once

#include "core.h"

#include <string_view>

namespace lcg {

constexpr size_t n_prompt_end = 64; // tokens of a prompt among which the mark of a phase is looked for

// The marks that models use around one kind of part (marks.cpp).
struct named_marks {
    std::string_view                                           name;
    bool                                                       leading; // as in `phase`
    std::vector<std::pair<std::string_view, std::string_view>> pairs;   // what begins it, what ends it
};
const std::vector<named_marks> & all_named_marks();

// What the tokens of a model write.
struct token_texts {
    std::string          bytes;  // of all tokens
    std::vector<int64_t> offset; // [n_vocab + 1], into them

    size_t           n_vocab() const { return offset.size() - 1; }
    std::string_view of(int32_t token) const; // nothing for what is no token
};

// A sequence to look for: bytes of the text, or ids of tokens.
class mark {
  public:
    mark(const std::vector<int32_t> & symbols, bool of_tokens);
    explicit mark(std::string_view text);

    bool   empty() const { return symbols_.empty(); }
    bool   of_tokens() const { return of_tokens_; }
    bool   operator==(const mark & other) const;
    size_t ink(const token_texts & texts) const; // its bytes but white space

    // How much of it stands at the end of what was read, one symbol later; all of it once it is `complete`.
    size_t after(size_t matched, int32_t symbol) const;
    bool   complete(size_t matched) const { return matched == symbols_.size(); }
    // Whether symbols end in it and white space.
    bool ends(std::vector<int32_t> symbols, const token_texts & texts) const;

  private:
    size_t ink_of(int32_t symbol, const token_texts & texts) const;

    std::vector<int32_t> symbols_;
    std::vector<size_t>  shorter_; // [n]: the longest proper start of the first i + 1 symbols that they end in
    bool                 of_tokens_;
};

// A phase begins behind its first mark, or at the start of the reply if that is empty, and ends behind its second one,
// or with the reply if that is empty.
struct phase {
    mark    begin, end;
    bool    leading; // the first mark counts only at the start of the reply, or of what follows a phase
    conduct options;
    size_t  ink = 0; // of the first mark; phase_set counts it
};

// Immutable and shared.
struct phase_set {
    phase_set(std::shared_ptr<const token_texts> texts, std::vector<phase> phases);

    std::shared_ptr<const token_texts> texts;
    std::vector<phase>                 phases; // where two begin at once, the first of them does
};

// Keeps the newest `n_prompt_end` tokens.
void add_to_end(std::vector<int32_t> & prompt, int32_t token);

// Follows a reply, token by token.
class phase_reader {
  public:
    explicit phase_reader(std::shared_ptr<const phase_set> set);

    // A phase is open from the start where `prompt` ends in its first mark and white space; but where both marks are
    // the same, that may be the second one.
    void begin(const std::vector<int32_t> & prompt);
    void restart(); // ... with the same prompt
    // True if a phase began or ended with this token.
    bool accept(int32_t token);

    const phase * open() const { return open_; }

  private:
    bool read(int32_t symbol, bool is_token);
    void enter(const phase * open);

    std::shared_ptr<const phase_set> set_;
    const phase *                    first_ = nullptr; // open at the start
    const phase *                    open_  = nullptr;
    std::vector<size_t>              matched_; // of each phase's first mark, or [0]: of the open one's second
    size_t                           ink_ = 0; // bytes but white space since the start, or since a phase ended
};

} // namespace lcg
