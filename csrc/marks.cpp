// The marks that models put around parts of a reply; control tokens are written out. Python takes them from here.
#include "phases.h"

namespace lcg {

const std::vector<named_marks> & all_named_marks() {
    static const std::vector<named_marks> all = {
        {"thinking", true,
            {
                {"<think>", "</think>"},
                {"<thinking>", "</thinking>"},
                {"<thought>", "</thought>"},
                {"<reasoning>", "</reasoning>"},
                {"<seed:think>", "</seed:think>"},
                {"<mm:think>", "</mm:think>"},
                {"[THINK]", "[/THINK]"},
                {"◁think▷", "◁/think▷"},
                {"<|START_THINKING|>", "<|END_THINKING|>"},
                {"<|channel>thought", "<channel|>"},
                {"<unused94>thought", "<unused95>"},
                {"Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"},
                // formats that go on with a header of the answer
                {"<|think|>", "<|end|>"},
                {"<|channel|>analysis", "<|channel|>final"},
                {"<|channel|>commentary", "<|channel|>final"},
            }},
        // a fence of code: what ends one looks like what begins one
        {"code", false, {{"```", "```"}}},
        // some formats have nothing behind a call of tools
        {"tool_calls", false,
            {
                {"<tool_call>", "</tool_call>"},
                {"<function_call>", "</function_call>"},
                {"<minimax:tool_call>", "</minimax:tool_call>"},
                {"<function=", "</function>"},
                {"<|python_tag|>", ""},
                {"[TOOL_CALLS]", ""},
                {"<|tool_call|>", ""},
                {"<|START_ACTION|>", "<|END_ACTION|>"},
                {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"},
                {"<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"},
            }},
    };
    return all;
}

} // namespace lcg
