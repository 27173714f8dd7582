// What a thread of ours is called, for `top -H`, debuggers and profilers.
#pragma once

#include <pthread.h>

namespace mnemosyne {

// Of the calling thread; at most 15 characters.
inline void NameThread(const char* name) { pthread_setname_np(pthread_self(), name); }

}  // namespace mnemosyne
