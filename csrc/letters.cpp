// Which letter belongs to which script, and what names of scripts stand for.
#include "letters.h"

#include "text.h"
#include "vocab.h"

#include <algorithm>
#include <cstdlib>

namespace lcg {

std::string_view scripts_text(); // letters_data.cpp
std::string_view characters_text();

namespace {

// scripts.NAMES
constexpr std::string_view names[] = {"latin", "cyrillic", "greek", "armenian", "georgian", "arabic", "hebrew",
    "thaana", "devanagari", "bengali", "gurmukhi", "gujarati", "oriya", "tamil", "telugu", "kannada", "malayalam",
    "sinhala", "thai", "lao", "khmer", "myanmar", "tibetan", "ethiopic", "hangul", "kana", "hans", "hant", "hanst",
    "hansj", "hantj", "han", "other", "symbols"};
constexpr size_t           n_names = std::size(names);

// scripts.GROUPS; lowres is everything else than those of cj, latin and symbols
constexpr std::pair<std::string_view, std::string_view> groups[] = {{"han", "hans,hant,hanst,hansj,hantj,han"},
    {"chinese", "hans,hant,hanst,hansj,hantj,han"}, {"simplified", "hans,hanst,hansj,han"},
    {"traditional", "hant,hanst,hantj,han"}, {"japanese", "kana,hansj,hantj,han"}, {"korean", "hangul"},
    {"cj", "kana,hans,hant,hanst,hansj,hantj,han"}};

constexpr std::string_view choices = "choices"; // pin.CHOICES

// Calls `take` with each part between separators, spaces around it left out.
template <typename F> void split(std::string_view text, char separator, F take) {
    while (!text.empty()) {
        const size_t     end  = std::min(text.find(separator), text.size());
        std::string_view part = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        part.remove_prefix(std::min(part.find_first_not_of(' '), part.size()));
        part = part.substr(0, part.find_last_not_of(' ') + 1);
        if (!part.empty()) {
            take(part);
        }
    }
}

size_t index_of(std::string_view name) {
    return static_cast<size_t>(std::find(std::begin(names), std::end(names), name) - std::begin(names));
}

// The families of a name; none if it is not known.
family_set families_named(std::string_view name) {
    family_set found;
    for (const auto & [group, members] : groups) {
        if (group == name) {
            split(members, ',', [&](std::string_view member) { found.set(index_of(member)); });
            return found;
        }
    }
    if (name == "lowres") {
        const family_set others = families_named("cj");
        for (size_t f = 0; f < n_names; f++) {
            found[f] = !others[f] && names[f] != "latin" && f != neutral_family();
        }
    } else if (index_of(name) < n_names) {
        found.set(index_of(name));
    }
    return found;
}

std::string known_names() {
    std::string list;
    for (const std::string_view name : names) {
        list += joined(list.empty() ? "" : ", ", name);
    }
    for (const auto & [group, members] : groups) {
        list += joined(", ", group);
    }
    return list + ", lowres";
}

family_set read_list(const char * field, std::string_view list) {
    family_set found;
    split(list, ',', [&](std::string_view name) {
        const family_set families = families_named(name);
        const bool       is_allow = std::string_view(field) == "allow";
        if (families.none() && !(is_allow && name == choices)) {
            throw gate_error(joined("`", field, "` names ", name, ", expected one of ", known_names()));
        }
        if (!is_allow && families[neutral_family()]) {
            throw gate_error(joined(
                "`", field, "` names ", name, ", expected a script: digits, signs and control tokens always stay"));
        }
        found |= families;
    });
    return found;
}

// Calls `take(name, first, last)` for each range of code points in one of the tables, and with what it is for each
// character that stands for itself.
template <typename F> void read_table(std::string_view text, F take) {
    split(text, '\n', [&](std::string_view line) {
        if (line[0] == '#') {
            return;
        }
        const size_t           colon   = line.find(':');
        const std::string_view family  = line.substr(0, colon);
        std::string_view       entries = line.substr(colon + 2);
        if (static_cast<unsigned char>(entries[0]) < 0x80) {
            split(entries, ' ', [&](std::string_view entry) {
                const std::string range(entry);
                const size_t      dash  = range.find('-');
                const auto        first = std::strtoul(range.c_str(), nullptr, 16);
                take(family, first, dash == std::string::npos ? first : std::strtoul(&range[dash + 1], nullptr, 16));
            });
            return;
        }
        for (size_t i = 0; i < entries.size();) { // UTF-8 of three or four bytes
            const auto     byte = [&](size_t k) { return static_cast<unsigned char>(entries[i + k]) & 0x3Ful; };
            const bool     is_4 = static_cast<unsigned char>(entries[i]) >= 0xF0;
            const uint64_t c    = is_4 ? (byte(0) & 7) << 18 | byte(1) << 12 | byte(2) << 6 | byte(3)
                                       : (byte(0) & 15) << 12 | byte(1) << 6 | byte(2);
            take(family, c, c);
            i += is_4 ? 4 : 3;
        }
    });
}

// The tokens that a gate exempts while decoding: letters of multiple choice, and `assistant`.
bool is_choice(std::string_view text) {
    if (text == "assistant") {
        return true;
    }
    text.remove_prefix(text.size() == 2 && text[0] == ' ' ? 1 : 0);
    return text.size() == 1 && text[0] >= 'A' && text[0] <= 'G';
}

} // namespace

uint8_t neutral_family() {
    return static_cast<uint8_t>(n_names - 1);
}

const std::vector<uint8_t> & character_families() {
    static const std::vector<uint8_t> families = [] {
        std::vector<uint8_t> table(n_code_points, unassigned);
        read_table(characters_text(), [&](std::string_view, size_t first, size_t last) {
            std::fill(table.begin() + first, table.begin() + last + 1, neutral_family());
        });
        read_table(scripts_text(), [&](std::string_view family, size_t first, size_t last) {
            std::fill(table.begin() + first, table.begin() + last + 1, static_cast<uint8_t>(index_of(family)));
        });
        return table;
    }();
    return families;
}

family_set denied_families(std::string_view allow, std::string_view deny) {
    const family_set allowed = read_list("allow", allow);
    family_set       denied  = read_list("deny", deny);
    for (size_t f = 0; f < n_names && allow.find_first_not_of(", ") != std::string_view::npos; f++) {
        denied[f] = denied[f] || (!allowed[f] && f != neutral_family());
    }
    return denied;
}

std::shared_ptr<const pin> pin_of(const llama_vocab * vocab, std::string_view allow, std::string_view deny) {
    const family_set denied = denied_families(allow, deny);
    if (denied.none()) {
        return nullptr;
    }
    constexpr int32_t attr_unknown = 1, attr_unused = 2, attr_normal = 4, attr_control = 8, attr_user_defined = 16;
    const auto        texts         = texts_of(vocab);
    auto              table         = std::make_shared<letter_table>();
    bool              keeps_choices = false;
    split(allow, ',', [&](std::string_view name) { keeps_choices |= name == choices; });
    std::vector<uint32_t> kept;
    for (int32_t token = 0; token < host.llama_vocab_n_tokens(vocab); token++) {
        const int32_t attributes = host.llama_vocab_get_attr(vocab, token);
        table->free.push_back((attributes & (attr_unknown | attr_unused | attr_control | attr_user_defined)) != 0);
        if (keeps_choices && (attributes & attr_normal) != 0 && is_choice(texts->of(token))) {
            kept.push_back(static_cast<uint32_t>(token));
        }
    }
    table->family  = character_families();
    table->neutral = neutral_family();
    table->texts   = texts;
    return std::make_shared<pin>(std::move(table), denied, kept);
}

} // namespace lcg
