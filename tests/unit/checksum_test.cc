// The Internet checksum against the plainest reading of RFC 1071 (big-endian words, carry folded at every
// step), and its incremental update against computing the whole header anew.
#include "src/checksum.h"

#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "src/address.h"

namespace sluice {
namespace {

// Host order, as a person would do it.
uint16_t reference(std::span<const uint8_t> data) {
  uint32_t sum = 0;
  for (size_t i = 0; i < data.size(); i += 2) {
    const uint32_t high = data[i];
    const uint32_t low = i + 1 < data.size() ? data[i + 1] : 0;
    sum += high << 8 | low;
    if (sum > 0xffff) sum -= 0xffff;
  }
  return static_cast<uint16_t>(0xffff - sum);
}

std::vector<uint8_t> random_bytes(std::mt19937_64& random, size_t size) {
  std::vector<uint8_t> bytes(size);
  for (uint8_t& b : bytes)
    b = static_cast<uint8_t>(random());
  return bytes;
}

TEST(ChecksumTest, ExampleOfRfc1071) {
  // RFC 1071 section 3: the sum of these is ddf2, so the checksum is its complement.
  const std::vector<uint8_t> data = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
  EXPECT_EQ(net16(checksum_finish(checksum_add(0, data.data(), data.size()))), 0x220d);
}

TEST(ChecksumTest, EqualsTheReferenceAtEveryLengthAndAlignment) {
  std::mt19937_64 random(1);
  for (size_t size = 0; size <= 130; size++) {
    for (size_t shift = 0; shift < 4; shift++) {
      const std::vector<uint8_t> data = random_bytes(random, size + shift);
      const std::span<const uint8_t> part = std::span(data).subspan(shift);
      EXPECT_EQ(net16(checksum_finish(checksum_add(0, part.data(), part.size()))), reference(part))
          << size << " bytes at " << shift;
    }
  }
}

TEST(ChecksumTest, EqualsTheReferenceForLongData) {
  std::mt19937_64 random(2);
  for (const size_t size : {1500u, 9000u, 65535u}) {
    const std::vector<uint8_t> data = random_bytes(random, size);
    EXPECT_EQ(net16(checksum_finish(checksum_add(0, data.data(), data.size()))), reference(data));
  }
  const std::vector<uint8_t> ones(65535, 0xff);  // every addition carries
  EXPECT_EQ(net16(checksum_finish(checksum_add(0, ones.data(), ones.size()))), reference(ones));
}

TEST(ChecksumTest, ZeroesAndOnes) {
  const std::vector<uint8_t> zeroes(20, 0);
  const std::vector<uint8_t> ones(20, 0xff);
  EXPECT_EQ(checksum_finish(checksum_add(0, zeroes.data(), zeroes.size())), 0xffff);
  EXPECT_EQ(checksum_finish(checksum_add(0, ones.data(), ones.size())), 0x0000);
  EXPECT_EQ(checksum_finish(checksum_add(0, nullptr, 0)), 0xffff);
}

TEST(ChecksumTest, PartsChain) {
  std::mt19937_64 random(3);
  const std::vector<uint8_t> data = random_bytes(random, 61);
  for (size_t cut = 0; cut <= data.size(); cut += 2) {
    const uint64_t first = checksum_add(0, data.data(), cut);
    EXPECT_EQ(net16(checksum_finish(checksum_add(first, data.data() + cut, data.size() - cut))),
              reference(data))
        << "cut at " << cut;
  }
}

TEST(ChecksumTest, AHeaderWithItsChecksumSumsToZero) {
  std::mt19937_64 random(4);
  for (int i = 0; i < 1000; i++) {
    std::vector<uint8_t> header = random_bytes(random, 20);
    header[10] = header[11] = 0;
    const uint16_t checksum = checksum_finish(checksum_add(0, header.data(), header.size()));
    std::memcpy(&header[10], &checksum, 2);
    EXPECT_EQ(reference(header), 0);
  }
}

TEST(ChecksumTest, FoldTakesAnySum) {
  EXPECT_EQ(checksum_fold(0), 0);
  EXPECT_EQ(checksum_fold(0xffff), 0xffff);
  EXPECT_EQ(checksum_fold(0x10000), 1);
  EXPECT_EQ(checksum_fold(0xffffffff), 0xffff);
  EXPECT_EQ(checksum_fold(UINT64_MAX), 0xffff);
  EXPECT_EQ(checksum_fold(0x0001'ffff'ffff'fffeULL), 0xffff);  // 1 + 3 * 0xffff - 1, one carry at each fold
}

// A header of 20 bytes whose word at 8 (TTL and protocol) changes.
void expect_update_equals_anew(std::vector<uint8_t> header, uint16_t to) {
  header[10] = header[11] = 0;
  const uint16_t before = checksum_finish(checksum_add(0, header.data(), header.size()));
  uint16_t from;
  std::memcpy(&from, &header[8], 2);
  std::memcpy(&header[8], &to, 2);
  const uint16_t anew = checksum_finish(checksum_add(0, header.data(), header.size()));
  EXPECT_EQ(checksum_update(before, from, to), anew) << "from " << from << " to " << to;
}

TEST(ChecksumUpdateTest, EqualsComputingAnew) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 100'000; i++) {
    std::vector<uint8_t> header = random_bytes(random, 20);
    header[0] = 0x45;  // never all zero: the one sum that has two forms
    expect_update_equals_anew(header, static_cast<uint16_t>(random()));
  }
}

TEST(ChecksumUpdateTest, EdgesOfOnesComplement) {
  std::mt19937_64 random(6);
  const uint16_t edges[] = {0x0000, 0x0001, 0x7fff, 0x8000, 0xfffe, 0xffff};
  for (const uint16_t from : edges) {
    for (const uint16_t to : edges) {
      for (int i = 0; i < 200; i++) {
        std::vector<uint8_t> header = random_bytes(random, 20);
        header[0] = 0x45;
        std::memcpy(&header[8], &from, 2);
        expect_update_equals_anew(header, to);
      }
    }
  }
}

TEST(ChecksumUpdateTest, ExampleOfRfc1624) {
  // RFC 1624 section 4: checksum dd2f, word 5555 becomes 3285; eqn. 3 gives 0000 where eqn. 2 of RFC 1141
  // gives ffff.
  EXPECT_EQ(net16(checksum_update(net16(0xdd2f), net16(0x5555), net16(0x3285))), 0x0000);
}

}  // namespace
}  // namespace sluice
