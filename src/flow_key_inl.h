// Inline part of src/flow_key.h: the hash must be inlined into the batch loops.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "src/flow_key.h"

namespace sluice {

inline uint64_t flow_hash(const FlowKey4& key, const HashSecret& secret) {
  return XXH3_64bits_withSecret(&key, sizeof key, secret.bytes.data(), secret.bytes.size());
}

inline uint64_t flow_hash(const FlowKey6& key, const HashSecret& secret) {
  return XXH3_64bits_withSecret(&key, sizeof key, secret.bytes.data(), secret.bytes.size());
}

inline uint64_t client_hash(const IpAddress& client, const HashSecret& secret) {
  return flow_hash(FlowKey6{client.bytes, {}, 0, 0, 0}, secret);
}

}  // namespace sluice
