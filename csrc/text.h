#pragma once

#include <string>
#include <type_traits>

namespace lcg {

// A message made of texts and numbers.
template <typename... T> std::string joined(const T &... parts) {
    const auto text = [](const auto & part) {
        if constexpr (std::is_arithmetic_v<std::decay_t<decltype(part)>>) {
            return std::to_string(part);
        } else {
            return std::string(part);
        }
    };
    return (text(parts) + ...);
}

} // namespace lcg
