# The main job, `salt '*' state.apply ispmail`: Postfix asks SQL maps, they answer as pillar expects, and
# the other programs that log in with the same account have its password.
include:
  - ispmail.modules
  - ispmail.packages
  - ispmail.maps
  - ispmail.consumers
  - ispmail.answers
