// Renders conversations with llama.cpp's own Jinja engine, as llama-server does.
//
// Reads one JSON object from standard input:
//   {"template": text, "bos": text, "eos": text,
//    "conversations": [{"messages": […], "tools": […], "think": bool or null}]}
// Writes a list with one {"prompt": text} or {"error": text} for each conversation.

#include "chat.h"
#include "json.h"
#include "llama.h"
#include "log.h"

#include <iostream>
#include <iterator>

static common_json render(const common_chat_templates * templates, const common_json & conversation) {
    common_json result = common_json::object();
    try {
        common_chat_templates_inputs inputs;
        inputs.messages = common_chat_msgs_parse_oaicompat(conversation.at("messages"));
        inputs.tools    = common_chat_tools_parse_oaicompat(conversation.at("tools"));
        if (conversation.at("think").is_boolean()) {
            inputs.enable_thinking = conversation.at("think").get<bool>();
        }
        result["prompt"] = common_chat_templates_apply(templates, inputs).prompt;
    } catch (const std::exception & error) {
        result["error"] = std::string(error.what());
    }
    return result;
}

static int run() {
    common_log_set_verbosity_thold(-1);
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    const std::string text((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
    const common_json input = common_json::parse(text);
    common_json       rows  = common_json::array();
    const auto templates = common_chat_templates_init(nullptr, input.at("template").get<std::string>(),
                                                      input.at("bos").get<std::string>(),
                                                      input.at("eos").get<std::string>());
    for (const auto & conversation : input.at("conversations")) {
        rows.push_back(render(templates.get(), conversation));
    }
    std::cout << rows.dump() << std::endl;
    return 0;
}

int main() {
    try {
        return run();
    } catch (const std::exception & error) {
        std::cerr << error.what() << std::endl;
        return 1;
    }
}
