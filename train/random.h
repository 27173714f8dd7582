#pragma once

#include <random>

namespace mnemosyne {

using Random = std::mt19937_64;

}  // namespace mnemosyne
