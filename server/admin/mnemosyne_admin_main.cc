// mnemosyne-admin: looks after a data folder that no server has open. Wiring only.
#include <iostream>
#include <string>
#include <vector>

#include "server/admin/admin_commands.h"

int main(int argc, char** argv) {
  const int code = mnemosyne::RunAdmin(std::vector<std::string>(argv + 1, argv + argc), std::cout, std::cerr);
  std::cout.flush();
  return code;
}
