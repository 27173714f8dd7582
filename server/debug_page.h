// Pages for people who look at a running server: plain HTML without scripts. They show sessions' ids, never content.
#pragma once

#include <cstdint>
#include <string>

#include "core/engine/engine.h"

namespace mnemosyne {

// Workers, queues, sessions in memory. `calls`: RPCs under way.
std::string DebugPage(const Engine& engine, int64_t calls);
// One session in memory: its watermarks, and its surprise over its stream as a picture.
std::string SessionDebugPage(const Engine& engine, const std::string& id);

}  // namespace mnemosyne
