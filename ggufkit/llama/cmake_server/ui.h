// The web interface that llama-server asks for: none.
#pragma once

#include <string>
#include <vector>

struct llama_ui_asset {
    std::string name;
};

inline std::vector<llama_ui_asset> llama_ui_get_assets() { return {}; }
