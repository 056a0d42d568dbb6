# The table files and main.cf are as pillar says, all or nothing.
include:
  - ispmail.modules
  - ispmail.packages

Postfix asks the maps that pillar names:
  postfix_map.managed
