// Phases: marks are looked for byte by byte, so that it does not matter how tokens divide them.
#include "phases.h"

#include <algorithm>

namespace lcg {
namespace {

bool is_blank(char byte) {
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

size_t count_ink(std::string_view text) {
    return text.size() - static_cast<size_t>(std::count_if(text.begin(), text.end(), is_blank));
}

} // namespace

std::string_view token_texts::of(int32_t token) const {
    const auto id = static_cast<size_t>(token);
    if (token < 0 || id >= n_vocab()) {
        return {};
    }
    return std::string_view(bytes).substr(
        static_cast<size_t>(offset[id]), static_cast<size_t>(offset[id + 1] - offset[id]));
}

mark::mark(const std::vector<int32_t> & symbols, bool of_tokens)
    : symbols_(symbols), shorter_(symbols.size()), of_tokens_(of_tokens) {
    for (size_t i = 1; i < symbols_.size(); i++) {
        shorter_[i] = after(shorter_[i - 1], symbols_[i]);
    }
}

mark::mark(std::string_view text)
    : mark(std::vector<int32_t>(reinterpret_cast<const uint8_t *>(text.data()),
               reinterpret_cast<const uint8_t *>(text.data()) + text.size()),
          false) {}

bool mark::operator==(const mark & other) const {
    return symbols_ == other.symbols_ && of_tokens_ == other.of_tokens_;
}

size_t mark::ink_of(int32_t symbol, const token_texts & texts) const {
    const char byte = static_cast<char>(symbol);
    return count_ink(of_tokens_ ? texts.of(symbol) : std::string_view(&byte, 1));
}

size_t mark::ink(const token_texts & texts) const {
    size_t n = 0;
    for (const int32_t symbol : symbols_) {
        n += ink_of(symbol, texts);
    }
    return n;
}

size_t mark::after(size_t matched, int32_t symbol) const {
    while (matched > 0 && (matched == symbols_.size() || symbols_[matched] != symbol)) {
        matched = shorter_[matched - 1];
    }
    return matched + (symbols_[matched] == symbol ? 1 : 0);
}

bool mark::ends(std::vector<int32_t> symbols, const token_texts & texts) const {
    while (symbols.size() >= symbols_.size()) {
        if (std::equal(symbols_.rbegin(), symbols_.rend(), symbols.rbegin())) {
            return true;
        }
        if (ink_of(symbols.back(), texts) > 0) {
            return false;
        }
        symbols.pop_back();
    }
    return false;
}

phase_set::phase_set(std::shared_ptr<const token_texts> texts, std::vector<phase> phases)
    : texts(std::move(texts)), phases(std::move(phases)) {
    for (phase & p : this->phases) {
        p.ink = p.begin.ink(*this->texts);
    }
}

void add_to_end(std::vector<int32_t> & prompt, int32_t token) {
    if (prompt.size() == n_prompt_end) {
        prompt.erase(prompt.begin());
    }
    prompt.push_back(token);
}

phase_reader::phase_reader(std::shared_ptr<const phase_set> set)
    : set_(std::move(set)), matched_(set_ ? set_->phases.size() : 0) {
    begin({});
}

void phase_reader::begin(const std::vector<int32_t> & prompt) {
    first_ = nullptr;
    if (set_ == nullptr) {
        return;
    }
    std::vector<int32_t> bytes;
    for (const int32_t token : prompt) {
        for (const char byte : set_->texts->of(token)) {
            bytes.push_back(static_cast<uint8_t>(byte));
        }
    }
    const auto find = [&](const auto & is_open) {
        const auto found = std::find_if(set_->phases.begin(), set_->phases.end(), is_open);
        return found != set_->phases.end() ? &*found : nullptr;
    };
    first_ = find([&](const phase & p) {
        return !p.begin.empty() && !(p.begin == p.end) &&
               p.begin.ends(p.begin.of_tokens() ? prompt : bytes, *set_->texts);
    });
    if (first_ == nullptr) {
        first_ = find([](const phase & p) { return p.begin.empty(); });
    }
    restart();
}

void phase_reader::restart() {
    enter(first_);
}

void phase_reader::enter(const phase * open) {
    open_ = open;
    ink_  = 0;
    std::fill(matched_.begin(), matched_.end(), 0);
}

bool phase_reader::accept(int32_t token) {
    if (set_ == nullptr) {
        return false;
    }
    bool changed = false;
    for (const char byte : set_->texts->of(token)) {
        ink_ += is_blank(byte) ? 0 : 1;
        changed |= read(static_cast<uint8_t>(byte), false);
    }
    return changed || read(token, true);
}

bool phase_reader::read(int32_t symbol, bool is_token) {
    if (open_ != nullptr) {
        const mark & end = open_->end;
        if (end.empty() || end.of_tokens() != is_token) {
            return false;
        }
        matched_[0] = end.after(matched_[0], symbol);
        if (end.complete(matched_[0])) {
            enter(nullptr);
            return true;
        }
        return false;
    }
    for (size_t i = 0; i < matched_.size(); i++) {
        const phase & candidate = set_->phases[i];
        const mark &  begin     = candidate.begin;
        if (begin.empty() || begin.of_tokens() != is_token) {
            continue;
        }
        matched_[i] = begin.after(matched_[i], symbol);
        if (begin.complete(matched_[i]) && (!candidate.leading || ink_ == candidate.ink)) {
            enter(&candidate);
            return true;
        }
    }
    return false;
}

} // namespace lcg
