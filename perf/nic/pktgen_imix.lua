-- Pktgen-DPDK: IMIX (64, 570 and 1518 bytes as 7:4:1), and RFC 2544's binary search for the rate that loses nothing.
--
-- It cannot be run on a machine without a NIC bound to DPDK, and has not been run by Sluice's own tests, beyond a check of
-- its syntax. Cabling and the balancer's side: see pktgen.pkt.
--
--   pktgen -l 0-4 -n 4 -- -P -m "[1-2:3-4].0" -f pktgen_imix.lua
--
-- Sequence mode sends its entries in turn, so the mix is twelve entries; each client is one flow, of twelve. For a million
-- flows of one size use pktgen.pkt, for both at once trex_stl.py.

package.path = package.path .. ";?.lua;test/?.lua;app/?.lua;../?.lua"
require "Pktgen"

local port = "0"
local balancer_mac = "02:00:00:00:00:01" -- the balancer's port
local own_mac = "02:00:00:00:fe:01"
local vip = "198.18.0.1"
local sizes = { 64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 64, 570 }
local trial_ms, settle_ms = 60000, 2000 -- RFC 2544 24: 60 seconds, and 2 for what is under way
local precision = 0.5 -- of the line rate, in per cent

local function set_up()
  pktgen.stop(port)
  for i, size in ipairs(sizes) do
    pktgen.seqTable(i - 1, port, {
      ["eth_dst_addr"] = balancer_mac,
      ["eth_src_addr"] = own_mac,
      ["ip_dst_addr"] = vip,
      ["ip_src_addr"] = "10.0.0." .. i .. "/32",
      ["sport"] = 32768 + i,
      ["dport"] = 80,
      ["ethType"] = "ipv4",
      ["ipProto"] = "tcp",
      ["vlanid"] = 1,
      ["pktSize"] = size,
    })
  end
  pktgen.set(port, "seqCnt", #sizes)
end

-- Packets that did not come back in a trial at `rate` per cent of the line.
local function lost_at(rate)
  pktgen.clr()
  pktgen.set(port, "rate", rate)
  pktgen.start(port)
  pktgen.delay(trial_ms)
  pktgen.stop(port)
  pktgen.delay(settle_ms)
  local stats = pktgen.portStats(port, "port")[tonumber(port)]
  local lost = stats.opackets - stats.ipackets
  printf("%6.2f %% of the line: sent %d, back %d, lost %d\n", rate, stats.opackets, stats.ipackets, lost)
  return lost
end

local function search()
  local lower, upper = 0, 100
  if lost_at(upper) == 0 then return upper end
  while upper - lower > precision do
    local middle = (lower + upper) / 2
    if lost_at(middle) == 0 then lower = middle else upper = middle end
  end
  return lower
end

set_up()
printf("nothing lost up to %.2f %% of the line\n", search())
