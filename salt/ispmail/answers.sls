# The live maps give the answers that pillar expects: asked on every apply, also when
# nothing changed, because a database changes by itself.
include:
  - ispmail.maps
{%- if salt['pillar.get']('ispmail:answers') %}

The maps answer as pillar expects:
  postfix_map.answers:
    - require:
      - postfix_map: Postfix asks the maps that pillar names
{%- endif %}
