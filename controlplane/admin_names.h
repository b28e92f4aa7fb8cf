// The names of admin states: in files, requests, answers and on disk.
#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "src/tables.h"

namespace sluice {

inline constexpr std::array<std::pair<std::string_view, Admin>, 5> kAdminNames = {{
    {"ready", Admin::ready},
    {"drain", Admin::drain},
    {"maint", Admin::maint},
    {"migrate", Admin::migrate},
    {"reset", Admin::reset},
}};
constexpr std::string_view name_of(Admin admin) {
  return kAdminNames[static_cast<size_t>(admin)].first;
}
constexpr std::optional<Admin> admin_of(std::string_view name) {
  for (const auto& [admin_name, admin] : kAdminNames) {
    if (admin_name == name) return admin;
  }
  return std::nullopt;
}
static_assert([] {
  for (const auto& [name, admin] : kAdminNames) {
    if (name_of(admin) != name) return false;
  }
  return true;
}());

}  // namespace sluice
