CREATE TABLE objectproperty (objectid INT, propname VARCHAR(30), value TEXT);
CREATE TABLE objectmvproperty (objectid INT, propname VARCHAR(30), value TEXT);
INSERT INTO objectproperty VALUES (1, 'loginname', 'john'), (1, 'emailaddress', 'john@example.org');
INSERT INTO objectmvproperty VALUES (1, 'alias', 'jack@example.org')
