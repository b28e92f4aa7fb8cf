// Headers that most of the tests include, read once (option from_scratch). Each file includes what it needs
// as if this were not there.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
