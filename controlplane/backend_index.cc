#include "controlplane/backend_index.h"

#include <string_view>

namespace sluice {
namespace {

template <typename Map, typename Key>
std::optional<BackendPlace> place_in(const Map& map, const Key& key) {
  const auto found = map.find(key);
  return found == map.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace

size_t BackendIndex::AddressHash::operator()(const IpAddress& address) const {
  const auto* bytes = reinterpret_cast<const char*>(address.bytes.data());
  return std::hash<std::string_view>()({bytes, address.bytes.size()});
}

BackendIndex::BackendIndex(const Model& model) {
  for (uint32_t s = 0; s < model.services().size(); s++) {
    const Service& service = model.services()[s];
    for (uint32_t b = 0; b < service.backends.size(); b++) {
      const Backend& backend = service.backends[b];
      const BackendPlace place{s, b};
      by_id_.emplace(index(backend.id), place);
      by_name_.emplace(service.config.name + "/" + backend.config.name, place);
      by_address_[backend.config.address].push_back(place);
    }
  }
}

std::optional<BackendPlace> BackendIndex::find(BackendId id) const {
  return place_in(by_id_, index(id));
}

std::optional<BackendPlace> BackendIndex::find(const std::string& service, const std::string& backend) const {
  return place_in(by_name_, service + "/" + backend);
}

std::span<const BackendPlace> BackendIndex::at(const IpAddress& address) const {
  const auto found = by_address_.find(address);
  return found == by_address_.end() ? std::span<const BackendPlace>() : found->second;
}

std::vector<BackendId> BackendIndex::ids() const {
  std::vector<BackendId> ids;
  for (const auto& [id, place] : by_id_)
    ids.push_back(BackendId{id});
  return ids;
}

std::vector<IpAddress> BackendIndex::addresses() const {
  std::vector<IpAddress> addresses;
  for (const auto& [address, places] : by_address_)
    addresses.push_back(address);
  return addresses;
}

}  // namespace sluice
