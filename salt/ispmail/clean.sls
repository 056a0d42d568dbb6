# Takes back what ispmail.maps did: the parameters first, then the table files. Packages
# and the rest of main.cf stay.
include:
  - ispmail.modules

Postfix asks none of the maps that pillar names:
  postfix_map.absent
