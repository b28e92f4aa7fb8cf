#include "controlplane/message.h"

namespace sluice {

using nlohmann::json;

std::string socket_path(const std::string& directory) {
  return directory + "/control.sock";
}

json ok_response() {
  return {{"v", kProtocolVersion}, {"ok", true}};
}

json error_response(const char* code, const Error& error) {
  return {{"v", kProtocolVersion},
          {"ok", false},
          {"code", code},
          {"error", error.what},
          {"remedy", error.remedy}};
}

std::string to_line(const json& object) {
  return object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace sluice
