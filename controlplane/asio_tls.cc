// As asio.cc, for its TLS part.
#include <boost/asio/ssl/impl/src.hpp>
