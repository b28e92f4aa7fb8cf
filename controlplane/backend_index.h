// Where the backends are in the model, by what events and commands call them: id, name, address.
//
// Owner: sluiced's one thread. Made anew after each Model::edit_all, O(all backends); finding is O(1),
// however many there are, which is what a change pays for.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "controlplane/model.h"

namespace sluice {

class BackendIndex {
 public:
  BackendIndex() = default;
  // Every backend of the model has an id.
  explicit BackendIndex(const Model& model);

  std::optional<BackendPlace> find(BackendId id) const;
  std::optional<BackendPlace> find(const std::string& service, const std::string& backend) const;
  // All backends at this address, of whatever service.
  std::span<const BackendPlace> at(const IpAddress& address) const;

  // In no order.
  std::vector<BackendId> ids() const;
  std::vector<IpAddress> addresses() const;

 private:
  struct AddressHash {
    size_t operator()(const IpAddress& address) const;
  };
  std::unordered_map<uint32_t, BackendPlace> by_id_;
  std::unordered_map<std::string, BackendPlace> by_name_;  // "service/backend"; neither name holds a slash
  std::unordered_map<IpAddress, std::vector<BackendPlace>, AddressHash> by_address_;
};

}  // namespace sluice
