#include "src/flow_key.h"

namespace sluice {

HashSecret HashSecret::from_text(std::string_view text) {
  HashSecret secret;
  XXH3_generateSecret(secret.bytes.data(), secret.bytes.size(), text.data(), text.size());
  return secret;
}

}  // namespace sluice
